"""Find experiment files, list what they hold, and execute them.

A file ``experiments/image_text/clip.py`` becomes the module ``experiments.image_text.clip``, as if it had been imported
from the folder above ``experiments``. So ``from experiments import common`` finds its neighbors, and its classes pickle
by that name. ``experiments`` is a namespace package: a folder of a user's own joins the one that comes with jaxrep.
"""

import ast
import contextlib
import dataclasses
import difflib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

from jaxrep.errors import UsageError, hint

FOLDER = "experiments"
"""Name of the folder in which experiments have short names."""


@dataclasses.dataclass(frozen=True)
class ExperimentFile:
    """Hold what an experiment file declares, read without executing it."""

    path: Path
    name: str
    """The short name: ``clip`` for ``experiments/image_text/clip.py``."""
    folder: str
    """Folder below ``experiments``: the field of research."""
    paper: str
    """First line of the docstring."""
    presets: tuple[str, ...]
    """Names of its recipes, or of its protocols of evaluation."""

    def matches(self, pattern: str) -> bool:
        """Return whether a pattern (``*`` and ``?``, or a part of it) fits the name, the folder or the paper."""
        pattern = pattern.lower() if set(pattern) & set("*?[") else f"*{pattern.lower()}*"
        texts = (self.name, f"{self.folder}/{self.name}", self.paper)
        return any(fnmatch(text.lower(), pattern) for text in texts)


# Finding -------------------------------------------------------------------------------------------------------------


def experiment_folders() -> list[Path]:
    """Return the folders ``experiments`` that exist, in the order in which short names are looked up.

    The first is the one in the current folder or the nearest folder above it. The last came with jaxrep: it is that of
    the checkout, or lies in the installed package.
    """
    package = Path(__file__).resolve().parent
    checkout = package.parent
    shipped = checkout if (checkout / "pyproject.toml").is_file() else package / "bundled"
    places = (*(folder / FOLDER for folder in (Path.cwd(), *Path.cwd().parents)), shipped / FOLDER)
    found = [place for place in places if any(place.glob("*.py")) or any(place.glob("*/*.py"))]
    return (
        list(dict.fromkeys((found[0], *(place for place in found[1:] if place == shipped / FOLDER)))) if found else []
    )


def find_file(target: str) -> Path:
    """Return the file of an experiment.

    Args:
        target: a path (``my/clip.py``), a short name (``clip``, or ``image_text.clip``) that is looked up in
            ``experiment_folders()``, or the name of an importable module.

    Raises:
        UsageError: no file has the name, or two files of one folder have it.
    """
    if target.endswith(".py") or "/" in target or "\\" in target:
        return Path(target)
    parts = tuple(target.split("."))
    for folder in experiment_folders():
        modules = {path: path.relative_to(folder.parent).with_suffix("").parts for path in _files(folder)}
        matching = [path for path, module in modules.items() if module[-len(parts) :] == parts]
        if len(matching) > 1:
            raise UsageError(
                f"two experiments are named '{target}': {matching[0]} and {matching[1]}; rename one, or give its path"
            )
        if matching:
            return _shown(matching[0])
    if len(parts) > 1 and (path := _module_file(target)):
        return path
    raise UsageError(f"there is no experiment named '{target}'; {_nearest(target)}")


def _nearest(target: str) -> str:
    known = sorted({path.stem for folder in experiment_folders() for path in _files(folder)})
    near = difflib.get_close_matches(target, known, n=3, cutoff=0.5)
    path = f"; {target}.py is a path, so write {target}.py" if Path(f"{target}.py").is_file() else ""
    names = f"did you mean {', '.join(near)}? " if near else ""
    return f"{names}`jaxrep list` shows all {len(known)}, and FILE.py takes any other file{path}"


def _module_file(name: str) -> Path | None:
    """Return the file of an importable module, which a package of the user's own may hold."""
    with _importable(Path.cwd()):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            return None
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if path.stem not in ("__init__", "common"))


def _shown(path: Path) -> Path:
    """Return the path relative to the current folder if it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


# Listing -------------------------------------------------------------------------------------------------------------


def list_experiments(folder: str | Path | None = None) -> list[ExperimentFile]:
    """List the experiments in a folder and the folders below it, without executing them.

    Args:
        folder: where to look; by default all ``experiment_folders()``, where a name in the first hides others.

    Raises:
        UsageError: the folder is missing, or a file is not Python.
    """
    if folder is not None and not Path(folder).is_dir():
        raise UsageError(f"{folder} is not a folder of experiments")
    files: list[ExperimentFile] = []
    for root in experiment_folders() if folder is None else [Path(folder)]:
        hidden = {file.name for file in files}
        for path in _files(root):
            presets, paper = _declared(path)
            if presets and path.stem not in hidden:
                field = "/".join(path.relative_to(root).parts[:-1])
                files.append(ExperimentFile(_shown(path), path.stem, field, paper, tuple(presets)))
    return sorted(files, key=lambda file: (file.folder, file.name))


def _declared(path: Path) -> tuple[list[str], str]:
    try:
        tree = ast.parse(path.read_text(), path.name)
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}") from error
    return preset_names(tree), first_line(ast.get_docstring(tree))


def preset_names(tree: ast.Module) -> list[str]:
    """Return the names at the top of a module that are bound to recipes, or to protocols of evaluation.

    A recipe is ``Recipe(...)``, ``<recipe>.replace(...)``, a call of a function that returns a Recipe, or another name
    of one. A module without recipes that binds ``evals`` holds protocols: its calls and tuples in lower case.
    """
    makers = {"Recipe", "recipe.Recipe"}
    makers |= {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.returns and "Recipe" in ast.unparse(node.returns)
    }
    recipes: list[str] = []
    protocols: list[str] = []
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        function = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
        alias = isinstance(value, ast.Name) and value.id in recipes
        if function in makers or function.endswith(".replace") or alias:
            recipes += names
        elif isinstance(value, ast.Call | ast.Tuple):
            protocols += [name for name in names if name.islower()]
    return recipes or (protocols if "evals" in protocols else [])


def first_line(doc: str | None) -> str:
    """Return the first line of a docstring."""
    return (doc or "").strip().partition("\n")[0]


# Executing -----------------------------------------------------------------------------------------------------------


def load_module(target: str | Path) -> ModuleType:
    """Return the module of an experiment, and execute its file if that did not happen before.

    Args:
        target: what ``find_file`` takes.

    Raises:
        UsageError: there is no such file, or executing it fails; the sentence has the line.
    """
    path = find_file(str(target))
    if path.suffix != ".py" or not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py"))
        known = f"in {path.parent} {hint(path.name, near)}" if near else f"{path.parent} holds no Python file"
        wrong = "is not a Python file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {wrong}; {known}")
    file = path.resolve()
    base, name = _module_name(file)
    _forget_other_folder(base, name.partition(".")[0])
    if name not in sys.modules:
        with _importable(base, Path.cwd(), *(folder.parent for folder in experiment_folders())):
            _execute(name, file, path)
    return sys.modules[name]


def _module_name(file: Path) -> tuple[Path, str]:
    """Return the folder from which a file is imported, and its name as a module.

    The folder lies above ``experiments``, or above the outermost package that holds the file. For another file, such as
    the copy in a run, it lies above the folder of the file.
    """
    top = next((folder for folder in file.parents if folder.name == FOLDER), file.parent)
    while (top / "__init__.py").is_file() and (top.parent / "__init__.py").is_file():
        top = top.parent
    return top.parent, ".".join(file.relative_to(top.parent).with_suffix("").parts)


def _execute(name: str, file: Path, shown: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, f"{file} ends in .py"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise UsageError(_sentence(error, file, shown)) from error


def _sentence(error: Exception, file: Path, shown: Path) -> str:
    """Return where in the file the mistake is, and what it is."""
    if isinstance(error, SyntaxError):
        place = shown if error.filename == str(file) else error.filename
        return f"{place}, line {error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{shown}, line {lines[-1] if lines else '?'}: {kind}{error}"


@contextlib.contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """Look names up in ``folders`` first. Afterwards they stay last in ``sys.path``, which worker processes inherit."""
    added, before = list(dict.fromkeys(str(folder) for folder in folders)), list(sys.path)
    sys.path[:] = added + before
    try:
        yield
    finally:
        sys.path[:] = before + [folder for folder in added if folder not in before]


def _forget_other_folder(base: Path, package: str) -> None:
    """Remove modules of another checkout's folder that a file below ``base`` would take for its neighbors."""
    if getattr(sys.modules.get(package), "__file__", None):
        return  # an ordinary package: none of its modules is an experiment
    loaded = {name: module for name, module in sys.modules.items() if name.startswith(f"{package}.")}
    stale = []
    for name, module in loaded.items():
        file, here = getattr(module, "__file__", None), base.joinpath(*name.split(".")).with_suffix(".py")
        if file and here.is_file() and Path(file).resolve() != here.resolve():
            stale.append(name)
    if stale:
        namespaces = [name for name, module in loaded.items() if not getattr(module, "__file__", None)]
        for name in (*stale, *namespaces, package):
            sys.modules.pop(name, None)
