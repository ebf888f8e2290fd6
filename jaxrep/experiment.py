"""Experiment files: plain Python modules whose module-level recipes are presets.

A file ``experiments/clip.py`` becomes the module ``experiments.clip``, as if it had been imported from the folder
above: then ``from experiments import align`` finds its neighbors, and its classes pickle by that name. Names are
looked up in the folder above and in the current one (where a run's copy finds the neighbors of its original); both
stay at the end of ``sys.path``, since worker processes inherit it.
"""

import ast
import contextlib
import dataclasses
import importlib.util
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxrep.errors import UsageError, hint
from jaxrep.format_version import FORMAT, KEY, upgrade, version_of
from jaxrep.spec import is_spec, walk
from jaxrep.spec_json import from_json, to_json

if TYPE_CHECKING:
    from jaxrep.recipe import Recipe

RECIPE = "recipe.json"
"""The resolved recipe, in a run directory; the copy of the experiment file is the only Python file there."""


@dataclasses.dataclass(frozen=True)
class LoadedExperiment:
    """A recipe and where it is from."""

    recipe: "Recipe"
    name: str
    """Name of the preset; of a run, name of its directory."""
    path: Path
    """The experiment file, or the run directory."""
    doc: str
    """First line of the experiment's docstring."""
    module: ModuleType | None
    """The experiment's module; None for a run whose recipe needs none."""


def load(target: str) -> LoadedExperiment:
    """The recipe at ``FILE[:NAME]``; NAME is ``recipe`` where it is not given. Raises ``UsageError``."""
    file, _, name = target.partition(":")
    module, name = load_module(Path(file)), name or "recipe"
    recipe = _preset(module, name, file)
    for path, part in walk(recipe):
        home = type(part).__module__
        if is_spec(part) and home != module.__name__ and home.partition(".")[0] != "jaxrep":
            raise UsageError(
                f"{file}:{name}: {path} is a {type(part).__name__} of {home}; a recipe's parts come from jaxrep and "
                "from its own file, so move a part that two files use into jaxrep"
            )
    return LoadedExperiment(recipe, name, Path(file), _first_line(module.__doc__), module)


def _preset(module: ModuleType, name: str, file: str) -> "Recipe":
    from jaxrep.recipe import Recipe, presets

    if not hasattr(module, name):
        raise UsageError(f"{file} has no recipe named {name!r}; {hint(name, presets(module))}")
    found = getattr(module, name)
    if not isinstance(found, Recipe):
        raise UsageError(
            f"{file}:{name} is of type {type(found).__name__}, not a Recipe; {hint(name, presets(module))}"
        )
    return found


def recipe_json(recipe: "Recipe") -> dict[str, Any]:
    """Return a recipe as ``recipe.json`` holds it: with the format version."""
    return {KEY: FORMAT, **to_json(recipe)}


def from_run(run_dir: str | Path) -> LoadedExperiment:
    """The recipe of a run directory. Its copy of the experiment is executed only for classes that the recipe needs."""
    folder = Path(run_dir)
    try:
        text = (folder / RECIPE).read_text()
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a run: it holds no {RECIPE}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{folder / RECIPE} is not text: {error}") from error
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{folder / RECIPE}, line {error.lineno}: this is not JSON: {error.msg}") from error
    module, version = load_module(_copy_in(folder)) if '"experiment:' in text else None, None
    try:
        version = version_of(data if isinstance(data, dict) else {}, str(folder / RECIPE))
        data = {name: value for name, value in data.items() if name != KEY}
        recipe = from_json(upgrade(data, version), module)
    except UsageError as error:
        older = "" if version in (None, FORMAT) else f" (it has format version {version}, and this jaxrep {FORMAT})"
        place = "" if version is None else f"{folder / RECIPE}: "
        raise UsageError(f"{place}{error}{older}") from None
    if type(recipe).__name__ != "Recipe":
        raise UsageError(f"{folder / RECIPE} holds a {type(recipe).__name__}, not a Recipe")
    return LoadedExperiment(
        recipe, folder.resolve().name, folder, _first_line(module.__doc__ if module else None), module
    )


def _copy_in(folder: Path) -> Path:
    files = sorted(folder.glob("*.py"))
    if len(files) != 1:
        raise UsageError(f"{folder} should hold one Python file, the copy of its experiment; it holds {len(files)}")
    return files[0]


# Modules -------------------------------------------------------------------------------------------------------------


def load_module(path: Path) -> ModuleType:
    """The module of an experiment file, executed unless it has been. Raises ``UsageError`` with the line at fault."""
    if path.suffix != ".py" or not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py"))
        known = f"in {path.parent} {hint(path.name, near)}" if near else f"{path.parent} holds no Python file"
        raise UsageError(f"{path} is not an experiment file; {known}")
    file = path.resolve()
    package = file.parent.name
    name = f"{package}.{file.stem}"
    _make_way(package, file.parent)
    if name not in sys.modules:
        with _importable(file.parent.parent, Path.cwd()):
            _execute(name, file, path)
    return sys.modules[name]


def _execute(name: str, file: Path, shown: Path) -> None:
    found = importlib.util.spec_from_file_location(name, file)
    assert found is not None and found.loader is not None, f"{file} ends in .py"
    module = sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception):
            raise
        raise UsageError(_fault(error, file, shown)) from error


def _fault(error: Exception, file: Path, shown: Path) -> str:
    """Where in the file the mistake is, and what it is."""
    if isinstance(error, SyntaxError):
        place = shown if error.filename == str(file) else error.filename
        return f"{place}, line {error.lineno}: {error.msg}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    return f"{shown}, line {lines[-1] if lines else '?'}: {kind}{error}"


@contextlib.contextmanager
def _importable(*folders: Path) -> Iterator[None]:
    """Looks names up in ``folders`` first; later last, so that they hide nothing."""
    own, before = [str(folder) for folder in folders], list(sys.path)
    sys.path[:] = own + before
    try:
        yield
    finally:
        sys.path[:] = before + [folder for folder in own if folder not in before]


def _make_way(package: str, folder: Path) -> None:
    """Forgets experiments of another folder of that name (another checkout), which would be taken for neighbors."""
    if getattr(sys.modules.get(package), "__file__", None):
        return  # an ordinary package: none of its modules is an experiment
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith(f"{package}.") and file and Path(file).resolve().parent != folder:
            del sys.modules[name]
            sys.modules.pop(package, None)


# Listing -------------------------------------------------------------------------------------------------------------


def list_experiments(folder: str | Path) -> list[tuple[Path, str, list[str]]]:
    """File, first line of its docstring, and names of its presets, of each experiment in ``folder``; executes none."""
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is not a folder of experiments")
    rows = []
    for path in sorted(Path(folder).glob("*.py")):
        try:
            tree = ast.parse(path.read_text(), path.name)
        except SyntaxError as error:
            raise UsageError(f"{path}, line {error.lineno}: {error.msg}") from error
        if names := _preset_names(tree):
            rows.append((path, _first_line(ast.get_docstring(tree)), names))
    return rows


def _preset_names(tree: ast.Module) -> list[str]:
    """Names bound at the top to ``Recipe(…)``, ``<recipe>.replace(…)``, a call of a function that returns one, or to
    another such name."""
    makers = {"Recipe", "recipe.Recipe"}
    makers |= {
        n.name for n in tree.body if isinstance(n, ast.FunctionDef) and n.returns and "Recipe" in ast.unparse(n.returns)
    }
    names = []
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, "value", None)
        made = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
        again = isinstance(value, ast.Name) and value.id in names
        if made in makers or made.endswith(".replace") or again:
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]
