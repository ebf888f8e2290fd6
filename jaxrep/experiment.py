"""Load the presets of experiment files: recipes, and protocols of evaluation. Load the recipes of runs."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jaxrep.errors import UsageError, hint, nearest
from jaxrep.experiment_files import find_file, first_line
from jaxrep.format_version import FORMAT, KEY, upgrade, version_of
from jaxrep.spec import is_spec, problems, type_name, walk
from jaxrep.spec_json import TYPE, from_json, read_json, to_json
from jaxrep.trust import own_file, record
from jaxrep.user_modules import load_module

if TYPE_CHECKING:
    from jaxrep.evals.base import Eval
    from jaxrep.recipe import Recipe

RECIPE = "recipe.json"
"""The resolved recipe, in a run directory; the copy of the experiment file is the only Python file there."""


@dataclasses.dataclass(frozen=True)
class LoadedExperiment:
    """Hold a recipe and the place it comes from."""

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
    """Load a recipe.

    Args:
        target: ``clip``, ``clip:tiny``, ``FILE.py`` or ``FILE.py:NAME``: a file as ``find_file`` finds it, and a preset
            (``recipe`` by default).

    Raises:
        UsageError: there is no such file or recipe, or the file has a mistake.
    """
    module, file, name = _module_and_preset(target)
    recipe = _recipe(module, name or "recipe", file)
    for path, part in walk(recipe):
        home = type(part).__module__
        if is_spec(part) and type_name(type(part)).startswith("experiment:") and home != module.__name__:
            name, elsewhere = type(part).__name__, getattr(sys.modules.get(home), "__file__", home)
            raise UsageError(
                f"{target}: {path} is a {name} of {elsewhere}; a run keeps a copy of one file, so a recipe's parts "
                f"come from jaxrep and from its own file: define {name} in {file}"
            )
    return LoadedExperiment(recipe, name or "recipe", file, first_line(module.__doc__), module)


def experiment_of(recipe: "Recipe") -> LoadedExperiment | None:
    """Return the experiment of a recipe whose parts are defined in a file; None if all its parts are jaxrep's.

    Raises:
        UsageError: parts are defined in several modules, or in none that is a file, such as a notebook.
    """
    parts = {type(part) for _, part in walk(recipe) if is_spec(part)}
    own = sorted({part.__module__ for part in parts if type_name(part).startswith("experiment:")})
    if not own:
        return None
    module = sys.modules.get(own[0])
    file = getattr(module, "__file__", None)
    if len(own) > 1 or module is None or file is None:
        raise UsageError(
            f"parts of the recipe are defined in {', '.join(own)}: a run keeps a copy of the one file that defines its "
            "parts, so move them into one Python file"
        )
    return LoadedExperiment(recipe, "recipe", Path(file), first_line(module.__doc__), module)


def load_evals(target: str) -> "tuple[Eval, ...]":
    """Load evaluations: a protocol, or those of a recipe.

    Args:
        target: as for ``load``. The preset is a recipe, an evaluation or a tuple of evaluations; by default ``evals``,
            or else ``recipe``.

    Raises:
        UsageError: there is no such file or preset, it declares no evaluation, or an evaluation has a mistake.
    """
    module, file, name = _module_and_preset(target)
    name = name or ("evals" if hasattr(module, "evals") else "recipe")
    evals = _evals_of(getattr(module, name, None))
    if not evals:
        names = [key for key, value in vars(module).items() if _evals_of(value)]
        raise UsageError(f"{file} has no evaluations named {name!r}; {hint(name, names)}")
    if wrong := problems(evals, target):
        raise UsageError(wrong[0])
    return evals


def _module_and_preset(target: str) -> tuple[ModuleType, Path, str]:
    """Return an experiment's module, its file, and the preset: what follows the last colon, unless that is a path."""
    name, _, preset = target.rpartition(":")
    if not name or "/" in preset or preset.endswith(".py") or Path(target).is_file():
        name, preset = target, ""
    path = find_file(name)
    return load_module(path), path, preset


def _evals_of(value: Any) -> "tuple[Eval, ...]":
    """Return the evaluations that a value of a module declares; none if it declares something else."""
    from jaxrep.evals.base import Eval
    from jaxrep.recipe import Recipe

    evals = value.evals if isinstance(value, Recipe) else (value,) if isinstance(value, Eval) else value
    return evals if isinstance(evals, tuple) and all(isinstance(item, Eval) for item in evals) else ()


def _recipe(module: ModuleType, name: str, file: Path) -> "Recipe":
    from jaxrep.recipe import Recipe, presets

    known = presets(module)
    if not known and _evals_of(getattr(module, "evals", None)):
        raise UsageError(f"{file} holds evaluations and no recipe: `jaxrep eval RUN --evals {file}` runs them")
    if not hasattr(module, name):
        raise UsageError(f"{file} has no recipe named {name!r}; {hint(name, known)}")
    recipe = getattr(module, name)
    if not isinstance(recipe, Recipe):
        raise UsageError(f"{file}:{name} is of type {type(recipe).__name__}, not a Recipe; {hint(name, known)}")
    return recipe


def recipe_json(recipe: "Recipe") -> dict[str, Any]:
    """Return a recipe as ``recipe.json`` holds it: with the format version."""
    return {KEY: FORMAT, **to_json(recipe)}


def from_run(run_dir: str | Path) -> LoadedExperiment:
    """Load the recipe of a run directory.

    The run's copy of the experiment is executed only for classes that the recipe needs, and only if it is a user's own
    code (``jaxrep.trust``).

    Raises:
        UsageError: the directory holds no run, its recipe cannot be read, a newer jaxrep wrote it, or it needs code
            that this user does not trust.
    """
    folder = Path(run_dir)
    place = folder / RECIPE
    if not place.exists():
        raise UsageError(f"{folder} is not a run: it holds no {RECIPE}{folder_meant(folder)}")
    data = read_json(place)
    version = version_of(data, str(place))
    try:
        data = upgrade({name: value for name, value in data.items() if name != KEY}, version)
        module = load_module(_own_copy(folder)) if any(_types_of_experiment(data)) else None
        recipe = from_json(data, module)
    except UsageError as error:
        older = "" if version == FORMAT else f" (it has format version {version}, and this jaxrep {FORMAT})"
        raise UsageError(f"{place}: {error}{older}") from None
    if type(recipe).__name__ != "Recipe":
        raise UsageError(f"{place} holds a {type(recipe).__name__}, not a Recipe")
    if wrong := problems(recipe, relations=False):
        raise UsageError(f"{place} is damaged: {wrong[0]}")
    return LoadedExperiment(
        recipe, folder.resolve().name, folder, first_line(module.__doc__ if module else None), module
    )


def folder_meant(folder: Path) -> str:
    """Return the end of a sentence on a folder that is not there: the folder beside it of the most similar name."""
    if folder.exists() or not folder.parent.is_dir():
        return ""
    near = nearest(folder.name, sorted(path.name for path in folder.parent.iterdir() if path.is_dir()))
    return f"; did you mean {folder.with_name(near[0])}?" if near else ""


def _types_of_experiment(data: Any) -> Iterator[bool]:
    """Yield whether each part of a recipe's JSON is of its experiment file."""
    if isinstance(data, dict):
        yield str(data.get(TYPE, "")).startswith("experiment:")
    for value in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        yield from _types_of_experiment(value)


def copy_in(folder: Path) -> Path:
    """Return the copy of the experiment file in a run directory. Raises UsageError: there is none, or several."""
    files = sorted(file for file in folder.glob("*.py") if file.is_file())
    if len(files) != 1:
        raise UsageError(f"{folder} should hold one Python file, the copy of its experiment; it holds {len(files)}")
    return files[0]


def _own_copy(folder: Path) -> Path:
    if (file := own_file(copy_in(folder))) is None:
        raise UsageError(
            f"the recipe needs the code in {copy_in(folder)}, which came with the run, and which this user has not "
            "trained on this machine: read it, and give --trust (in Python trust=True) if it may be executed"
        )
    return file


def trust_run(folder: str | Path) -> None:
    """Record that this user trusts the code in a run directory, if it holds any. Raises UsageError."""
    for copy in Path(folder).glob("*.py"):
        if reason := record(copy):
            raise UsageError(f"the trust in {copy} cannot be recorded: {reason}")
