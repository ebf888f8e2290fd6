"""The table of runs: means and spreads over seeds, intervals over examples, and the tests that they allow."""

import csv
import io
import json

import numpy as np
import pytest
from scipy import stats

from jaxrep.errors import UsageError
from jaxrep.metrics.intervals import bootstrap_interval, paired_test
from jaxrep.metrics.sample import Sample
from jaxrep.report import table
from jaxrep.report.run_facts import group_by_seed, read_runs
from tests.helpers import made_runs as made

RANDOM = np.random.default_rng(0)
A, B = Sample(RANDOM.random(80) < 0.8), Sample(RANDOM.random(80) < 0.4)


@pytest.fixture
def groups(tmp_path):
    """Groups of runs: name -> (seed, dim, results)."""

    def make(**runs):
        paths = [
            made.run(tmp_path / name, results, {"seed": seed, "method.dim": dim})
            for name, (seed, dim, results) in runs.items()
        ]
        return group_by_seed(read_runs(paths))

    return make


def test_two_runs_are_compared_per_example(groups):
    first, second = table.rows(groups(a=(0, 2, {"r1": A}), b=(0, 3, {"r1": B})))
    bounds = bootstrap_interval(A)
    assert (first.value, first.low, first.high) == (float(A), bounds.low, bounds.high)
    assert first.difference is None and first.p is None
    assert second.difference == pytest.approx(float(B) - float(A))
    assert (second.p, second.test) == (paired_test(B, A).p, table.OVER_EXAMPLES)


def test_several_seeds_have_mean_spread_and_t_test(groups):
    a, b = [0.5, 0.6, 0.55], [0.7, 0.75, 0.71]
    runs = {f"a{i}": (i, 2, {"r1": x}) for i, x in enumerate(a)} | {f"b{i}": (i, 3, {"r1": x}) for i, x in enumerate(b)}
    first, second = table.rows(groups(**runs))
    assert (first.group, first.runs, first.value) == ("a0 (+2)", 3, pytest.approx(0.55))
    assert first.spread == pytest.approx(stats.tstd(a))  # of a sample: n - 1
    assert second.p == pytest.approx(stats.ttest_rel(b, a).pvalue)
    assert second.test == table.OVER_SEEDS


@pytest.mark.parametrize(
    ("b", "why"),
    [
        ({"b": (0, 3, {"r1": 0.5})}, "the values per example are not stored"),
        ({"b": (0, 3, {"r1": Sample(np.ones(7))})}, "one is measured on 7 examples, the other on 80"),
        ({"b": (3, 3, {"r1": A}), "c": (4, 3, {"r1": A})}, "no two seeds in common"),
    ],
)
def test_row_names_the_reason_for_a_missing_test(groups, b, why):
    row = table.rows(groups(a=(0, 2, {"r1": A}), **b))[-1]
    assert (row.p, row.test) == (None, why)
    assert row.difference is not None


def test_metrics_are_chosen_by_glob(groups):
    found = groups(a=(0, 2, {"retrieval/r1": A, "retrieval/r5": B, "zeroshot/top1": A}))
    assert [row.metric for row in table.rows(found, "retrieval/*")] == ["retrieval/r1", "retrieval/r5"]
    with pytest.raises(UsageError, match=r"no metric is named 'retrieval/r2'; did you mean retrieval/r5\?"):
        table.rows(found, "retrieval/r2")


def test_metric_of_some_groups_has_rows_of_these(groups):
    found = table.rows(groups(a=(0, 2, {"r1": A}), b=(0, 3, {"r1": B, "new": B})))
    assert [(row.metric, row.group, row.difference is None) for row in found] == [
        ("r1", "a", True),
        ("r1", "b", False),
        ("new", "b", True),
    ]


def test_json_csv_and_markdown_hold_the_rows(groups):
    found = table.rows(groups(a=(0, 2, {"r|1": A, "nan": float("nan")}), b=(0, 3, {"r|1": B})))
    assert json.loads(table.as_json(found))[0]["value"] == float(A)
    assert json.loads(table.as_json(found))[2]["value"] is None
    lines = list(csv.DictReader(io.StringIO(table.as_csv(found))))
    assert (lines[0]["metric"], lines[0]["difference"]) == ("r|1", "")
    assert float(lines[1]["p"]) == found[1].p
    assert table.as_markdown(found).splitlines()[2].startswith(r"| r\|1 | a | ")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.1235"), (48.0, "48.000"), (123.456, "123.5"), (2e6, "2,000,000"), (2e-5, "2.00e-05"), (None, "—")],
)
def test_number_format(value, text):
    assert table.number(value) == text
