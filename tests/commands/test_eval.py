"""``jaxrep eval`` gives the metrics of the run's end, and names what is missing."""

import json
from pathlib import Path

import pytest

from jaxrep.metrics import sample
from jaxrep.training.loop import train
from tests.helpers.harness import LOADED, RECIPE


def test_metrics_equal_the_results_of_the_run(jaxrep_says, run_dir, results, tmp_path):
    status, out, err = jaxrep_says("eval", run_dir, "--out", tmp_path / "metrics.json")
    assert (status, err) == (0, "")
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    printed = dict(line.split() for line in out.splitlines())
    assert printed == {name: f"{value:.4f}" for name, value in results.items()}
    assert {"retrieval/image_to_text/r1", "retrieval/text_to_image/r10"} <= printed.keys()


OTHERS = """
from jaxrep.data.sources.csv_table import Csv
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.evals.classification.vocabulary_free import VocabularyFree

source = Csv(path="{pictures}/pairs.csv", image_size=8)
one = Retrieval(data=source, name="mine")
two = (one, VocabularyFree(data=source, label="text", captions=source))
twice = (one, one)
wrong = Retrieval(data=source, ks=(0,))
"""


@pytest.fixture
def others(pictures, tmp_path):
    file = tmp_path / "others.py"
    file.write_text(OTHERS.format(pictures=pictures))
    return file


def test_evaluations_from_a_file(jaxrep_says, run_dir, results, others, tmp_path):
    out = tmp_path / "metrics.json"
    assert jaxrep_says("eval", run_dir, "--evals", f"{others}:two", "--out", out)[::2] == (0, "")
    found = json.loads(out.read_text())
    assert {name.replace("mine/", "retrieval/"): value for name, value in found.items() if "mine" in name} == results
    assert {"vocabulary_free/iou", "vocabulary_free/cluster_accuracy"} < found.keys()
    assert float(sample.read(tmp_path / "metrics.npz")["mine/image_to_text/r1"]) == found["mine/image_to_text/r1"]
    assert len(sample.read(tmp_path / "metrics.npz")["mine/image_to_text/r1"].values) == 12
    recipe = Path(__file__).parents[1] / "helpers" / "tiny.py"
    for target in (f"{recipe}:measured", recipe):
        told = jaxrep_says("eval", run_dir, "--evals", target)[2]
        assert "has no evaluations named" in told and told.rstrip().endswith("there are none")


def test_wrong_evaluations_are_one_sentence(jaxrep_says, run_dir, others, tmp_path):
    for target, sentence in [
        (
            f"{others}:on",
            f"{others} has no evaluations named 'on'; did you mean one? there are: one, two, twice, wrong",
        ),
        (f"{others}:twice", "--evals: 2 evaluations have the name 'mine'"),
        (f"{others}:wrong", "ks.0: expected a number of at least 1, got 0"),
        (tmp_path / "none.py", "none.py does not exist"),
    ]:
        status, out, err = jaxrep_says("eval", run_dir, "--evals", target)
        assert (status, out) == (2, "") and sentence in err and "Traceback" not in err
    (tmp_path / "config.json").write_text("{}")
    assert "has no evaluations: give --evals" in jaxrep_says("eval", tmp_path)[2]


def test_missing_tower_is_one_sentence(jaxrep_says, run_dir, others):
    with others.open("a") as file:
        file.write("titled = Csv(path=source.path, image_size=8, captions=('title',))\n")
        file.write("three = Retrieval(data=titled, text='title')\n")
    status, _, err = jaxrep_says("eval", run_dir, "--evals", f"{others}:three")
    assert status == 2 and "the model has no tower that reads 'title'; " in err


def test_missing_run_out_or_weights_are_one_sentence(jaxrep_says, run_dir, tmp_path):
    for args, sentence in [
        ((tmp_path,), f"{tmp_path} is neither a run nor a public checkpoint"),
        ((run_dir, "--out", tmp_path / "no/where.json"), f"there is no folder {tmp_path}/no"),
        ((run_dir, "--out", tmp_path), "it is a folder"),
        ((run_dir, "--weights", "ema"), "keeps no average of its parameters"),
        ((run_dir, "--checkpoint", "best"), "checkpoint"),
    ]:
        status, out, err = jaxrep_says("eval", *args)
        assert (status, out) == (2, "")
        assert sentence in err and "Traceback" not in err


def test_recipe_without_evaluations_is_refused(jaxrep_says, tmp_path):
    assert train(RECIPE.replace(examples=8, evals=()), tmp_path / "bare", LOADED) == 0
    status, _, err = jaxrep_says("eval", tmp_path / "bare")
    assert status == 2 and "has no evaluation" in err
