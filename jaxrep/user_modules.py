"""Execute a user's files as modules, each under a name that no other module has.

A file of a folder ``experiments`` is ``experiments.image_text.clip``, as if it had been imported from the folder above.
So ``from experiments import common`` finds its neighbors. ``experiments`` is a namespace package: a folder of a user's
own joins the one that comes with jaxrep. A file of another package has its name in that package.

Any other file, ``/work/mine/clip.py``, is ``jaxrep.user_modules./work/mine.clip``, whatever else is called ``mine`` or
``clip``. ``from . import parts`` finds its neighbors, and worker processes find its classes, since the name is a path.
"""

import importlib.machinery
import importlib.util
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from jaxrep.errors import UsageError, hint
from jaxrep.experiment_files import FOLDER, experiment_folders, find_file, importable

__path__: list[str] = []  # makes this module a package, whose modules _Finder finds


class _Finder:
    """Find the modules whose names are paths."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        package, _, place = name.rpartition(".")
        if package == __name__:
            folder = importlib.machinery.ModuleSpec(name, None, is_package=True)
            folder.submodule_search_locations = [unquote(place)]
            return folder
        file = Path(*path or (), f"{unquote(place)}.py")
        found = package.startswith(f"{__name__}.") and file.is_file()
        return importlib.util.spec_from_file_location(name, file) if found else None


sys.meta_path.append(_Finder)


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
        here = path.parent == Path()
        known = f"{'' if here else f'in {path.parent} '}{hint(path.name, near)}"
        known = known if near else f"{'this folder' if here else path.parent} holds no Python file"
        wrong = "is not a Python file" if path.exists() else "does not exist"
        raise UsageError(f"{path} {wrong}; {known}")
    file = path.resolve()
    base, name = _module_name(file)
    if base:
        _forget_other_folder(base, name.partition(".")[0])
    if name not in sys.modules:
        with importable(*([base] if base else []), Path.cwd(), *(folder.parent for folder in experiment_folders())):
            _execute(name, file, path)
    return sys.modules[name]


def _module_name(file: Path) -> tuple[Path | None, str]:
    """Return the folder from which a file is imported, and its name as a module.

    The folder lies above ``experiments``, or above the outermost package that holds the file. A file elsewhere, and a
    file of a package whose name another module has, is imported by its path, from no folder.
    """
    top = next((folder for folder in file.parents if folder.name == FOLDER), file.parent)
    while (top / "__init__.py").is_file() and (top.parent / "__init__.py").is_file():
        top = top.parent
    namesake, of_package = getattr(sys.modules.get(top.name), "__file__", None), (top / "__init__.py").is_file()
    if (top.name == FOLDER or of_package) and (not namesake or Path(namesake).resolve().parent == top):
        return top.parent, ".".join(file.relative_to(top.parent).with_suffix("").parts)
    root = top.parent if of_package else file.parent
    parts = str(root), *file.relative_to(root).with_suffix("").parts
    return None, ".".join((__name__, *(part.replace("%", "%25").replace(".", "%2E") for part in parts)))


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
        place = shown if error.filename in (None, str(file)) else error.filename
        return f"{place}{f', line {error.lineno}' if error.lineno else ''}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    beside = missing and file.with_name(f"{missing}.py").is_file()
    advice = f"; {missing}.py lies beside it: write `from . import {missing}`" if beside else ""
    return f"{shown}, line {lines[-1] if lines else '?'}: {kind}{error}{advice}"


def place_of(error: BaseException) -> str | None:
    """Return where an error left a user's own code: file, line and part. None if it never was there."""
    libraries = (*sysconfig.get_paths().values(), str(Path(__file__).parent), "<")
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(code, line) for code, line in frames if not code.co_filename.startswith(libraries)]
    return f"{own[-1][0].co_filename}, line {own[-1][1]}, in {own[-1][0].co_qualname}" if own else None


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
