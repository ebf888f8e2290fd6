"""Find experiment files, and list what they hold without executing them."""

import ast
import contextlib
import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from jaxrep.errors import UsageError, nearest

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

    They are the one in the current folder or the nearest folder above it, and the one that came with jaxrep.
    """
    above = (folder / FOLDER for folder in (Path.cwd(), *Path.cwd().parents))
    nearest = next((place for place in above if _holds_files(place)), None)
    return list(dict.fromkeys(place for place in (nearest, bundled_folder()) if place and _holds_files(place)))


def bundled_folder() -> Path:
    """Return the folder ``experiments`` that came with jaxrep: of the checkout, or in the installed package."""
    package = Path(__file__).resolve().parent
    checkout = package.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else package / "bundled") / FOLDER


def _holds_files(folder: Path) -> bool:
    return any(folder.glob("*.py")) or any(folder.glob("*/*.py"))


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
    near = nearest(target, known, 3)
    path = f"; {target}.py is a path, so write {target}.py" if Path(f"{target}.py").is_file() else ""
    names = f"did you mean {', '.join(near)}? " if near else ""
    return f"{names}`jaxrep list` shows all {len(known)}, and FILE.py takes any other file{path}"


def _module_file(name: str) -> Path | None:
    """Return the file of an importable module, which a package of the user's own may hold."""
    with importable(Path.cwd()):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            return None
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


@contextlib.contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Look names up in ``folders`` first. Afterwards they stay last in ``sys.path``, which worker processes inherit."""
    added, before = list(dict.fromkeys(str(folder) for folder in folders)), list(sys.path)
    sys.path[:] = added + before
    try:
        yield
    finally:
        sys.path[:] = before + [folder for folder in added if folder not in before]


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*.py") if path.stem not in ("__init__", "common"))
    return sorted(path for path in found if path.is_file())


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
            presets, paper = declared(path)
            if presets and path.stem not in hidden:
                field = "/".join(path.relative_to(root).parts[:-1])
                files.append(ExperimentFile(_shown(path), path.stem, field, paper, tuple(presets)))
    return sorted(files, key=lambda file: (file.folder, file.name))


def declared(path: Path) -> tuple[list[str], str]:
    """Return the presets of a file and the first line of its docstring. Raises UsageError: it is not Python."""
    try:
        tree = ast.parse(path.read_bytes(), path.name)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise UsageError(f"{path}{line}: {error.msg}") from error
    except (ValueError, OSError) as error:
        raise UsageError(f"{path} cannot be read as Python: {error}") from error
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
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        targets, value = node.targets if isinstance(node, ast.Assign) else [node.target], node.value
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
