"""What the README shows works as it is shown, and the docs name all that a recipe can be made of."""

import ast
import re
from pathlib import Path

import jax
import pytest

from jaxrep.experiment import load
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.training.loop import train

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_complete_recipe_trains(tmp_path: Path):
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "recipe = Recipe(" in block
    ]
    (tmp_path / "experiments").mkdir()
    file = tmp_path / "experiments" / "mine.py"
    file.write_text(example)
    experiment = load(str(file))
    short = experiment.recipe.replace(examples=2 * 128)
    ended = train(short, tmp_path / "run", experiment, devices=jax.devices()[:1])
    assert ended is ExitCode.DONE
    assert (tmp_path / "run" / "results.json").exists()


def test_every_preset_of_the_table_exists():
    rows = re.findall(r"^\| `(\w+\.py)` \| (.*?) \|", README, re.MULTILINE)
    assert len(rows) == 6
    for file, presets in rows:
        for name in re.findall(r"`(\w+)`", presets):
            load(str(ROOT / "experiments" / file) + f":{name}")


@pytest.mark.parametrize(
    ("folder", "base"), [("evals", "Eval"), ("data", "Source"), ("views", "View"), ("methods", "Method")]
)
def test_the_docs_name_every_part_of_a_kind(folder, base):
    texts = "".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    modules = [ast.parse(path.read_text()) for path in sorted((ROOT / "jaxrep" / folder).rglob("*.py"))]
    classes = [node for module in modules for node in module.body if isinstance(node, ast.ClassDef)]
    kinds, before = {base}, set()
    while kinds != before:
        before = set(kinds)
        kinds |= {c.name for c in classes if {ast.unparse(each) for each in c.bases} & kinds}
    abstract = {c.name for c in classes if not c.decorator_list or (ast.get_docstring(c) or "").startswith("Abstract")}
    concrete = kinds - abstract - {base}
    assert len(concrete) > 5
    assert not sorted(name for name in concrete if not re.search(rf"\b{name}\b", texts))
