"""Rows of learners of views: one tower before training, one budget, and one table."""

import json

import numpy as np
import pytest
from flax import nnx

from experiments import common
from jaxrep.params import split
from jaxrep.step.shapes import trace_shapes
from results import measure, siamese
from results.comparison import comparison
from results.features import FEATURES
from results.lab import in_laboratory


def tower(recipe):
    """The image encoder's arrays before training."""
    inputs = trace_shapes(recipe).inputs
    _, arrays = split(recipe.method.build(nnx.Rngs(recipe.seed), inputs=inputs))
    return {path: np.asarray(x) for path, x in arrays.items() if path.startswith("image/")}


@pytest.mark.parametrize("learner", siamese.LEARNERS)
def test_learners_have_one_tower_before_training_one_budget_and_one_set_of_evaluations(learner):
    row = siamese.EFFECTS[f"{learner}_untrained"]
    (baseline, _), (method, _) = (row.side(side, seed=3) for side in ("baseline", "method"))
    assert baseline == in_laboratory(siamese.tower(baseline), 3)
    assert row.budget() == {"steps": siamese.STEPS, "batch_size": 128}
    assert set(FEATURES) <= {*row.metrics} and {*common.probes()} <= {*row.side_evals("baseline")}
    before, after = tower(baseline), tower(method)
    assert before.keys() == after.keys()
    assert all(np.array_equal(x, after[path]) for path, x in before.items())


def test_table_of_learners_has_a_line_for_each_and_for_simpler_features(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "KEPT", tmp_path)
    assert comparison(("simclr", "byol")) == ""
    sides = {"baseline": (0.1, 0.3), "method": (0.4, 0.6)}
    row = {side: [dict.fromkeys(FEATURES, value) for value in values] for side, values in sides.items()}
    for name in ("simclr_untrained", "simclr_pixels"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"steps": 10, "batch_size": 4, **row}))
    title, _, head, rule, *lines = comparison(("simclr", "byol")).splitlines()
    assert title == "One encoder, 10 steps of 4 pictures, one set of evaluations:"
    assert head.count("|") == rule.count("|") == len(FEATURES) + 2
    low, high = " | ".join(["0.200 ± 0.141"] * 4), " | ".join(["0.500 ± 0.141"] * 4)
    assert lines == [f"| raw pixels | {low} |", f"| the tower before training | {low} |", f"| `simclr` | {high} |"]


def test_pixels_are_measured_on_the_run_of_the_method():
    sides = [siamese.EFFECTS["barlow_pixels"].side(side, seed=1)[0] for side in ("baseline", "method")]
    assert sides[0] == sides[1]


def test_metrics_of_training_are_those_of_the_last_logged_step(tmp_path, monkeypatch):
    lines = [json.dumps({"step": step, "loss/moco/first": first}) for step, first in ((1, 0.9), (2, 0.25))]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(measure, "_trained", lambda *_: tmp_path)
    monkeypatch.setattr(measure, "load_run", lambda _: (None,))
    monkeypatch.setattr(measure, "run_evals", lambda *_: dict.fromkeys(siamese.MOCHI.metrics, 0.5))
    found = siamese.MOCHI.measure("baseline", 0, tmp_path)
    assert found.pop("training/loss/mochi/first") == 0.25 and {*found.values()} == {0.5}
