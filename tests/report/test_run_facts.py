"""What a run directory says is read as it was written, and runs are told apart."""

import numpy as np
import pytest

from jaxrep.errors import UsageError
from jaxrep.metrics.sample import Sample
from jaxrep.report.run_facts import group_by_seed, paper_difference, read_run, read_runs
from tests.helpers import made_runs as made

HITS = {"retrieval/r1": Sample(np.array([1, 0, 1, 1])), "plain": 0.25}


def test_results_have_values_per_example(tmp_path):
    facts = read_run(made.run(tmp_path / "a", HITS, lines=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}]))
    assert facts.metrics == {"retrieval/r1": 0.75, "plain": 0.25}
    np.testing.assert_array_equal(facts.metrics["retrieval/r1"].values, [1, 0, 1, 1])
    assert facts.step == 2
    assert facts.lines[1]["loss"] is None


def test_run_without_samples_has_results(tmp_path):
    folder = made.run(tmp_path / "a", HITS)
    (folder / "samples.npz").unlink()
    facts = read_run(folder)
    assert facts.metrics == {"retrieval/r1": 0.75, "plain": 0.25}
    assert not facts.samples


def test_unfinished_run_has_no_results(tmp_path):
    assert read_run(made.run(tmp_path / "a")).results is None


def test_incomplete_last_line_is_ignored_and_damaged_line_is_named(tmp_path):
    folder = made.run(tmp_path / "a", lines=[{"step": 1}])
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert [line["step"] for line in read_run(folder).lines] == [1]
    (folder / "metrics.jsonl").write_text('{"step": 1, "lo\n{"step": 2}\n')
    with pytest.raises(UsageError, match=r"metrics.jsonl, line 1: this is not JSON"):
        read_run(folder)


def test_runs_with_equal_names_are_named_by_folders(tmp_path):
    paths = [made.run(tmp_path / name) for name in ("x/run", "y/run", "other")]
    assert [facts.name for facts in read_runs(paths)] == ["x/run", "y/run", "other"]
    with pytest.raises(UsageError, match="other is given twice"):
        read_runs([*paths, paths[2]])


def test_runs_are_grouped_by_seed(tmp_path):
    changes = {
        "a": {"seed": 0},
        "b": {"method.dim": 3},
        "c": {"seed": 1, "log.every_steps": 7},  # execution does not count
        "d": {"seed": 1, "method.dim": 3},
        "again": {"seed": 1},  # no second draw of a group that has this seed
    }
    groups = group_by_seed(read_runs([made.run(tmp_path / name, changes=each) for name, each in changes.items()]))
    assert [[run.name for run in group.runs] for group in groups] == [["a", "c"], ["b", "d"], ["again"]]
    assert [group.name for group in groups] == ["a (+1)", "b (+1)", "again"]


def test_paper_recipe_is_read_from_the_copied_experiment_file(tmp_path):
    found = paper_difference(read_run(made.run(tmp_path / "a", changes={"method.dim": 3})))
    assert [(change.path, change.b) for change in found.changes] == [("method.dim", 3)]
    assert found.doc.startswith("A recipe so small")
    bare = made.run(tmp_path / "b")
    (bare / "environment.json").unlink()
    assert paper_difference(read_run(bare)).unknown.startswith("The run has no experiment file")
