"""Rows of the table of effects compare like with like, and are written as mean and spread."""

import json

import pytest

from jaxrep.recipe import From
from results import measure
from results.rows import EFFECTS, untrained

# The baseline of these is the run that they start from, which is not trained further.
BESIDE_THEIR_START = ("coop", "negclip_before")
COMPARED = [
    name for name, effect in EFFECTS.items() if effect.without is not untrained and name not in BESIDE_THEIR_START
]


@pytest.mark.parametrize("name", COMPARED)
def test_both_sides_of_a_row_have_one_length_and_seed(name):
    (baseline, _), (method, _) = (EFFECTS[name].side(side, seed=2) for side in ("baseline", "method"))
    assert baseline.examples == method.examples > 0
    assert baseline.data.batch_size == method.data.batch_size
    origins = [*baseline.init.values(), *method.init.values()]
    assert {baseline.seed, method.seed} | {o.source.seed for o in origins if isinstance(o, From)} == {2}


def test_table_row_is_mean_and_spread_over_seeds(tmp_path, monkeypatch):
    row = {
        "steps": 10,
        "batch_size": 4,
        "baseline": [{"classification/top1": value} for value in (0.1, 0.2, 0.3)],
        "method": [{"classification/top1": value} for value in (0.3, 0.4, 0.8)],
    }
    (tmp_path / "coop.json").write_text(json.dumps(row))
    monkeypatch.setattr(measure, "KEPT", tmp_path)
    *_, line = measure.table(EFFECTS).splitlines()
    # Differences are taken seed by seed: 0.2, 0.2 and 0.5.
    assert line.endswith("| 10 x 4 | accuracy, 10 groups | 0.200 ± 0.100 | 0.500 ± 0.265 | +0.300 ± 0.173 |")
    assert len(measure.table(EFFECTS).splitlines()) == 3
