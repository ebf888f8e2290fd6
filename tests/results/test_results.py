"""Rows of the table of effects compare like with like, are judged by their paired differences, and resume."""

import dataclasses
import json

import numpy as np
import pytest

from jaxrep.recipe import From
from jaxrep.spec import problems
from results import measure
from results.features import BEFORE
from results.itself import FILE, verdicts_on_itself
from results.lab import BATCH, STEPS
from results.measure import KEPT, Pieces
from results.rows import EFFECTS
from results.verdict import judge

COMPARED = [name for name, effect in EFFECTS.items() if effect.baseline != BEFORE and not effect.baseline_steps]


@pytest.mark.parametrize("name", COMPARED)
def test_both_sides_of_a_row_have_one_length_and_seed(name):
    (baseline, _), (method, _) = (EFFECTS[name].side(side, seed=2) for side in ("baseline", "method"))
    assert baseline.examples == method.examples > 0
    assert baseline.data.batch_size == method.data.batch_size
    origins = [*baseline.init.values(), *method.init.values()]
    assert {baseline.seed, method.seed} | {o.source.seed for o in origins if isinstance(o, From)} == {2}


@pytest.mark.parametrize("name", EFFECTS)
def test_recipes_and_evaluations_of_both_sides_have_no_mistakes(name):
    for side in ("baseline", "method"):
        assert [*problems(EFFECTS[name].side(side, seed=0)[0]), *problems(EFFECTS[name].side_evals(side))] == []


@pytest.mark.parametrize("name", EFFECTS)
def test_rows_with_other_lengths_than_the_laboratory_say_why(name):
    effect, usual = EFFECTS[name], measure.Effect("", "", None, "", {})
    tuned = bool(effect.side("method", 0)[0].init)
    assert effect.why or tuned or (effect.steps, effect.batch_size) == (usual.steps, usual.batch_size)


@pytest.mark.parametrize("path", sorted(KEPT.glob("*.json")), ids=lambda path: path.stem)
def test_kept_row_states_the_steps_and_the_batch_of_its_method(path):
    kept = json.loads(path.read_text(encoding="utf-8"))
    stated = {name: kept[name] for name in ("steps", "batch_size")}
    assert stated == ({"steps": STEPS, "batch_size": BATCH} if path == FILE else EFFECTS[path.stem].budget())


# Verdicts


@pytest.mark.parametrize(
    ("differences", "better", "word"),
    [
        ([0.05, 0.06, 0.04, 0.05, 0.05], "higher", "seen"),
        ([0.05, 0.06, 0.04, 0.05, 0.05], "lower", "reversed"),
        ([-0.05, -0.06, -0.04, -0.05, -0.05], "higher", "reversed"),
        ([0.01, -0.01, 0.0, 0.01, -0.01], "higher", "smaller than the row could show"),
        ([0.2, -0.2, 0.1, 0.0, -0.05], "higher", "undecided"),
        ([0.0, 0.0, 0.0, 0.0, 0.0], "lower", "smaller than the row could show"),
    ],
)
def test_verdict_follows_from_the_interval_of_paired_differences(differences, better, word):
    baseline = np.array([0.7, 0.8, 0.75, 0.6, 0.9])  # its spread is larger than the differences, and does not count
    assert judge(baseline, baseline + differences, better, resolution=0.02).word == word


def test_verdict_interval_is_students():
    stats = pytest.importorskip("scipy.stats")
    differences = [0.2, 0.2, 0.5, -0.1]
    low, high = stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    verdict = judge([0.0] * 4, differences, "higher", 0.02)
    np.testing.assert_allclose((verdict.mean - verdict.half_width, verdict.mean + verdict.half_width), (low, high))


def test_verdict_sees_what_is_not_there_in_one_of_forty_tries():
    random = np.random.default_rng(0)
    sides = random.normal(0.8, 0.02, (2, 10_000, 5))
    words = [judge(a, b, "higher", 0.02).word for a, b in zip(*sides, strict=True)]
    assert abs(words.count("seen") / len(words) - 0.025) < 0.005  # three standard deviations of the count
    assert abs(words.count("reversed") / len(words) - 0.025) < 0.005


@pytest.mark.parametrize("sides", [([0.5], [0.5]), ([0.5, 0.5], [0.5]), ([0.5, float("nan")], [0.5, 0.5])])
def test_verdict_refuses_too_few_or_unequal_or_nonfinite_values(sides):
    with pytest.raises(ValueError, match="two finite values per side"):
        judge(*sides, "higher", 0.02)


def test_kept_measurements_of_the_laboratory_hold_its_promises():
    """CLIP varies by at most 0.02; itself with other seeds is seen once at most; a temperature of 1 is reversed."""
    itself = json.loads((measure.KEPT / "itself.json").read_text())
    assert np.std(itself["values"], ddof=1) <= 0.02
    assert itself["verdicts"] == verdicts_on_itself(itself["values"])
    assert itself["verdicts"].count("seen") <= 1
    row = json.loads((measure.KEPT / "temperature.json").read_text())
    values = ([seed[measure.MEAN_R1] for seed in row[side]] for side in ("baseline", "method"))
    assert judge(*values, "higher", 0.02).word == "reversed"


# The table, and stops


def test_table_row_has_spread_interval_and_verdict_on_the_main_metric(tmp_path, monkeypatch):
    row = {
        "steps": 10,
        "batch_size": 4,
        "baseline": [{"classification/top1": value} for value in (0.1, 0.2, 0.3)],
        "method": [{"classification/top1": value} for value in (0.3, 0.4, 0.8)],
    }
    (tmp_path / "coop.json").write_text(json.dumps(row))
    monkeypatch.setattr(measure, "KEPT", tmp_path)
    *_, line = measure.table(EFFECTS).splitlines()
    # Differences are taken seed by seed: 0.2, 0.2 and 0.5; their interval is 4.303 * 0.173 / sqrt(3).
    assert line.endswith(
        "| 10 x 4 | accuracy, 10 groups | 0.200 ± 0.100 | 0.500 ± 0.265 | +0.300 ± 0.430 | **undecided** (0.430) |"
    )
    assert sum(line.startswith("| `") for line in measure.table(EFFECTS).splitlines()) == 1


def test_row_is_stale_once_a_recipe_or_evaluation_changed(tmp_path, monkeypatch):
    effect = EFFECTS["coop"]
    monkeypatch.setattr(measure, "KEPT", tmp_path)
    assert not measure.is_current("coop", effect)
    (tmp_path / "coop.json").write_text(json.dumps({"fingerprint": effect.fingerprint()}))
    assert measure.is_current("coop", effect)
    changed = dataclasses.replace(effect, steps=100)
    assert not measure.is_current("coop", changed)


def test_no_piece_begins_after_its_time(tmp_path):
    with pytest.raises(SystemExit, match="Run the same command to go on"):
        measure.measure_row("coop", EFFECTS["coop"], tmp_path, Pieces(minutes=-1))
    assert not list(tmp_path.iterdir())
