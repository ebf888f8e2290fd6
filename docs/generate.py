"""Write the generated tables of the documentation: ``python docs/generate.py``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->`` in a Markdown file. The script reads only
source text, so it needs no JAX. ``tests/test_docs.py`` checks that the tables are current.
"""

import ast
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = re.compile(r"(<!-- table: (?P<name>[\w/]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


@dataclass(frozen=True)
class Export:
    """Hold one name that a room exports."""

    name: str
    module: str
    """Module that defines it, relative to the package, as ``encoders.image.vit``."""
    node: ast.stmt | None
    """Its definition; None for a name that is neither a class nor a function."""

    @property
    def path(self) -> str:
        return f"jaxrep.{self.module}.{self.name}"

    @property
    def is_spec(self) -> bool:
        """Whether a recipe can hold it: a frozen dataclass that is no tree of arrays."""
        if not isinstance(self.node, ast.ClassDef):
            return False
        marks = {ast.unparse(mark) for mark in self.node.decorator_list}
        if "jax.tree_util.register_dataclass" in marks:
            return False
        return bool(marks & {"spec", "dataclass(frozen=True)", "dataclasses.dataclass(frozen=True)"})

    @property
    def is_abstract(self) -> bool:
        return isinstance(self.node, ast.ClassDef) and (
            any("abstractmethod" in ast.unparse(mark) for mark in _decorators(self.node))
            or any(ast.unparse(base).endswith("ABC") for base in self.node.bases)
        )

    @property
    def summary(self) -> str:
        return first_sentence(self.node)


def _decorators(node: ast.ClassDef) -> list[ast.expr]:
    return [mark for child in node.body if isinstance(child, ast.FunctionDef) for mark in child.decorator_list]


def first_sentence(node: ast.AST | None) -> str:
    """Return the first paragraph of a docstring as one line of Markdown."""
    doc = ast.get_docstring(node) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) else None
    return _line((doc or "").partition("\n\n")[0])


def _line(text: str) -> str:
    """Return text as one line of a table; ``<`` stays as it is in code only."""
    pieces = " ".join(text.split()).replace("``", "`").replace("|", "\\|").split("`")
    return "`".join(piece if n % 2 else piece.replace("<", "&lt;") for n, piece in enumerate(pieces))


def methods_of(export: Export) -> set[str]:
    """Return the names of the functions that a class defines itself."""
    body = export.node.body if isinstance(export.node, ast.ClassDef) else []
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def exports(room: str) -> tuple[Export, ...]:
    """Return what a room exports, in the order of its stub; of a room without a stub, its public definitions."""
    folder = ROOT / "jaxrep" / room
    if not (folder / "__init__.pyi").exists():
        files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
        return tuple(export for file in files for export in _public(file))
    found = []
    for line in parse(folder / "__init__.pyi").body:
        if isinstance(line, ast.ImportFrom):
            # "from .image.vit import ViT" and, of another room, "from jaxrep.errors import BadSample"
            module = f"{room}.{line.module}" if line.level else str(line.module).removeprefix("jaxrep.")
            found += [Export(alias.name, module, _definition(module, alias.name)) for alias in line.names]
    return tuple(found)


def names_of(room: str) -> set[str]:
    """Return the names of all public definitions in a room's files, exported or not."""
    path = ROOT / "jaxrep" / room
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return {export.name for file in files for export in _public(file)}


def _public(file: Path) -> list[Export]:
    module = ".".join(file.relative_to(ROOT / "jaxrep").with_suffix("").parts).removesuffix(".__init__")
    kinds = (ast.ClassDef, ast.FunctionDef)
    return [Export(n.name, module, n) for n in parse(file).body if isinstance(n, kinds) and not n.name.startswith("_")]


def _definition(module: str, name: str) -> ast.stmt | None:
    file = (ROOT / "jaxrep" / module.replace(".", "/")).with_suffix(".py")
    tree = parse(file if file.exists() else file.with_suffix("") / "__init__.py")
    named = (n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name)
    return next(named, None)


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def parts_table(place: str) -> str:
    """Return the specs that a room exports; ``place`` is the room, or a folder or file in it (``data/sources``)."""
    room, prefix = place.partition("/")[0], place.replace("/", ".")
    chosen = [e for e in exports(room) if e.is_spec and f"{e.module}.".startswith(f"{prefix}.")]
    rows = [(f"`{e.name}`", e.summary + _abstract(e)) for e in sorted(chosen, key=lambda e: e.name)]
    return markdown(("part", "what it does"), rows)


def _abstract(part: Export) -> str:
    return " (Abstract.)" if part.is_abstract and "abstract" not in part.summary else ""


def fields_table() -> str:
    """Return the fields of a recipe."""
    (recipe,) = [e.node for e in exports("recipe") if e.name == "Recipe"]
    assert isinstance(recipe, ast.ClassDef)
    rows = []
    for field, doc in zip(recipe.body, recipe.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
            rows.append((f"`{ast.unparse(field.target)}`", _line(ast.literal_eval(doc.value))))
    return markdown(("field", "meaning"), rows)


def functions_table(room: str) -> str:
    """Return the functions that a room exports."""
    chosen = [e for e in exports(room) if isinstance(e.node, ast.FunctionDef)]
    rows = [(f"`{e.name}`", e.summary) for e in sorted(chosen, key=lambda e: e.name)]
    return markdown(("function", "what it does"), rows)


def metrics_table() -> str:
    """Return the metrics of each evaluation, from the section ``Metrics:`` of its docstring."""
    rows = []
    for export in exports("evals"):
        doc = ast.get_docstring(export.node) if isinstance(export.node, ast.ClassDef) else None
        if section := re.search(r"^Metrics:\n((?:    .*\n?|\n)+)", doc or "", re.MULTILINE):
            prefix = _default(export.node, "name")
            rows.append((f"`{export.name}`", f"`{prefix}/`" if prefix else "", _line(section[1])))
    return markdown(("evaluation", "prefix", "metrics"), sorted(rows))


def _default(node: ast.stmt | None, field: str) -> str:
    body = node.body if isinstance(node, ast.ClassDef) else []
    named = (n.value for n in body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == field)
    return next((str(v.value) for v in named if isinstance(v, ast.Constant)), "")


def experiments_table() -> str:
    """Return the experiments: name, presets, and the first line of the file's docstring, which names the paper."""
    from jaxrep.experiment_files import list_experiments

    files = list_experiments(ROOT / "experiments")
    rows = [(file.folder, f"`{file.name}`", " ".join(f"`{p}`" for p in file.presets), file.paper) for file in files]
    return markdown(("field", "experiment", "presets", "paper"), rows)


def floors_table() -> str:
    """Return the floors of imports, from the ground up."""
    (floors,) = [
        ast.literal_eval(n.value)
        for n in parse(ROOT / "tests" / "test_house.py").body
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "FLOORS"
    ]
    rows = [(str(n), ", ".join(f"`{room}`" for room in rooms)) for n, rooms in enumerate(floors)]
    return markdown(("floor", "rooms and modules"), rows)


def table(name: str) -> str:
    """Return the table that a marker asks for."""
    match name.split("/", 1):
        case ["experiments"]:
            return experiments_table()
        case ["fields"]:
            return fields_table()
        case ["floors"]:
            return floors_table()
        case ["metrics"]:
            return metrics_table()
        case ["functions", room]:
            return functions_table(room)
        case ["parts", place]:
            return parts_table(place)
    raise ValueError(f"there is no table {name!r}: experiments, fields, floors, metrics, functions/ROOM or parts/ROOM")


def filled(text: str) -> str:
    """Return the text of a page with all its tables as they are now."""
    return TABLE.sub(lambda found: f"{found[1]}{table(found['name'])}{found[3]}", text)


def main() -> None:
    sys.path.insert(0, str(ROOT))
    for page in PAGES:
        text = page.read_text()
        if (new := filled(text)) != text:
            page.write_text(new)
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
