"""What the README shows works as it is shown."""

import re
from pathlib import Path

import jax

from jaxrep.experiment import load
from jaxrep.train.exits import Exit
from jaxrep.train.loop import train

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_complete_recipe_trains(tmp_path: Path):
    (example,) = [
        block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "recipe = Recipe(" in block
    ]
    (tmp_path / "experiments").mkdir()
    file = tmp_path / "experiments" / "mine.py"
    file.write_text(example)
    experiment = load(str(file))
    short = experiment.recipe.replace(examples=2 * 128)
    ended = train(short, tmp_path / "run", experiment, say=lambda _: None, devices=jax.devices()[:1])
    assert ended is Exit.DONE
    assert (tmp_path / "run" / "results.json").exists()


def test_every_preset_of_the_table_exists():
    rows = re.findall(r"^\| `(\w+\.py)` \| (.*?) \|", README, re.MULTILINE)
    assert len(rows) == 6
    for file, presets in rows:
        for name in re.findall(r"`(\w+)`", presets):
            load(str(Path(__file__).parents[1] / "experiments" / file) + f":{name}")
