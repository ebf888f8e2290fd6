"""The structure of the package: imports run downward, files and functions stay small, exports are complete."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import jaxrep
from jaxrep.spec_json import _is_spec_class

ROOT = Path(jaxrep.__file__).parent

# The rooms from the ground up. A module imports from its own room and from lower floors only.
FLOORS = (
    ("errors", "npy", "paths", "reads", "signals"),
    ("spec", "batch", "hosts", "disk_cache", "extras", "format_version", "lazy_exports"),
    ("patches", "spec_json", "storage", "hub", "mesh", "params", "schedules"),
    ("data", "encoders", "losses", "optim", "views"),
    ("methods", "objectives", "metrics"),
    ("block_layout", "computation", "model_inputs", "prompts"),
    ("model",),
    ("evals",),
    ("recipe",),
    ("experiment_files",),
    ("user_modules", "trust"),
    ("experiment",),
    ("step",),
    ("pretrained", "runs"),
    ("embeddings", "report", "training"),
    ("plan",),
    ("api",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    return {
        ".".join(("jaxrep", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of jaxrep that a file imports, inside functions too, but not for type checkers alone."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("jaxrep"):
                full = {f"{child.module}.{alias.name}" for alias in child.names}
                found.update(name if name in known else str(child.module) for name in full)
            elif isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names if alias.name in known)
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_imports_run_downward():
    known = modules()
    upward = [
        f"{module} imports {target}"
        for module, path in known.items()
        for target in imports(path, known)
        if room(target) not in ("", room(module)) and room(module) and FLOOR[room(target)] >= FLOOR[room(module)]
    ]
    assert upward == []


def test_no_import_cycles():
    known = modules()
    graph = {module: imports(path, known) - {module} for module, path in known.items() if path.stem != "__init__"}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " imports ".join((*above[above.index(module) :], module))
        if module not in done:
            for target in graph.get(module, ()):
                visit(target, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_jax_internals_are_used_in_one_file():
    users = [path.name for path in ROOT.rglob("*.py") if "jax._src" in path.read_text()]
    assert users in ([], ["hosts.py"])


def test_files_and_functions_stay_small():
    long_files = {str(p): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > 350}
    assert long_files == {}
    long_functions = [
        f"{path.name}:{node.name}"
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert len(long_functions) <= 5, long_functions


ACROSS = frozenset(
    [
        "data/orders/all_orders",
        "data/fingerprint",
        "data/remote",
        "data/restore",
        "data/stores",
        "encoders/sizes",
        "evals/documented_examples",
        "objectives/hinge",
        "objectives/mixup",
        "objectives/primary_components",
        "objectives/recipes",
        "objectives/views",
        "pretrained/folders",
        "runs/checkpoint_faults",
        "step/given",
        "step/gradient_matrix",
        "training/hosts",
        "training/img2dataset",
        "training/resume",
        "training/stored_embeddings",
        "views/pinned_draws",
    ]
)
"""Tests of what several modules of a room do."""


def test_tests_mirror_the_package():
    """Test X.py by test_X.py in the same folder of tests/, or by several files in a folder X/."""
    tests, strays = Path(__file__).parent, []
    for path in tests.rglob("test_*.py"):
        name = path.relative_to(tests).with_name(path.stem.removeprefix("test_"))
        modules = (ROOT / f"{name}.py", (ROOT / name.parent).with_suffix(".py"))
        if (ROOT / name.parts[0]).is_dir() and not any(module.exists() for module in modules):
            strays.append(str(name))
    assert sorted(strays) == sorted(ACROSS)


def test_benchmarks_write_no_file_unless_asked():
    flags = [
        (path.name, node)
        for path in (ROOT.parent / "benchmarks").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and any(ast.unparse(arg) in ("'--out'", "'--plot'") for arg in node.args)
    ]
    assert len(flags) > 5
    assert [name for name, node in flags if any(word.arg in ("default", "required") for word in node.keywords)] == []


ROOMS = [
    m.name for m in pkgutil.iter_modules([str(ROOT)]) if hasattr(importlib.import_module(f"jaxrep.{m.name}"), "__all__")
]


@pytest.mark.parametrize("name", ROOMS)
def test_exports_exist_and_hide_no_submodule(name: str):
    module = importlib.import_module(f"jaxrep.{name}")
    for export in module.__all__:
        assert getattr(module, export) is not None
    if hasattr(module, "__path__"):
        assert not {m.name for m in pkgutil.iter_modules(module.__path__)} & {*module.__all__}


@pytest.mark.parametrize("name", ["data", "encoders", "evals", "methods", "objectives", "optim", "views"])
def test_every_public_spec_of_a_room_is_exported(name: str):
    """A spec with a leading underscore in its name is private."""
    module = importlib.import_module(f"jaxrep.{name}")
    missing = []
    for target, path in modules().items():
        if room(target) != name or path.stem == "__init__":
            continue
        held, source = vars(importlib.import_module(target)), path.read_text()
        for key, value in held.items():
            public = _is_spec_class(value) and value.__module__ == target and not key.startswith("_")
            if public and re.search(rf"@spec\nclass {key}\b", source) and key not in module.__all__:
                missing.append(f"{target}:{key}")
    assert missing == []
