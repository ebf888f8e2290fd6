"""Runs and recipes that earlier format versions wrote load and evaluate, for ever.

``fixtures/format_N`` was written by the first release of format N and never changes. A release that renames a part or a
field adds the rename to ``jaxrep/format_version.py``, and a new fixture.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import jaxrep
from jaxrep.experiment import from_run
from jaxrep.spec import problems

ROOT = Path(__file__).parents[1]
FORMATS = sorted((ROOT / "tests" / "fixtures").glob("format_*"))
RECIPES = [path for folder in FORMATS for path in sorted((folder / "recipes").glob("*.json"))]


@pytest.mark.parametrize("folder", FORMATS, ids=lambda path: path.name)
def test_run_of_an_earlier_format_loads_and_evaluates(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = jaxrep.open_run(folder.relative_to(ROOT) / "run")
    assert run.recipe.data.batch_size == 4 and [line["step"] for line in run.metrics()] == [2, 4]
    embedding = run.model().encode_text(["number 3"])[0]
    # A few float32 roundings of another platform or library.
    np.testing.assert_allclose(embedding, json.loads((folder / "embedding.json").read_text()), atol=1e-4)
    assert jaxrep.evaluate(run) == pytest.approx(dict(run.results), abs=1e-6)


REFUSED_SINCE = {
    "grain": ["data.train.source: boxes are shares of the whole image, and the source crops it by HostCenterCrop"]
}
"""Recipes that load, and that training refuses since a mistake in them was found."""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_recipe_of_an_earlier_format_loads_without_problems(path, tmp_path):
    shutil.copy(path, tmp_path / "recipe.json")
    recipe = from_run(tmp_path).recipe
    known = REFUSED_SINCE.get(path.stem, [])
    assert [sentence.partition(": give")[0] for sentence in problems(recipe)] == known
    assert recipe.data.batch_size == json.loads(path.read_text())["data"]["batch_size"]
