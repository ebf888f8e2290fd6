"""An evaluation goes without what it cannot read; where that is too much the run ends, with its step saved."""

import json

import jax
import pytest

from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.subsets import FewShot, Filter, Where
from jaxrep.errors import JaxrepError
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.report.run_facts import read_run
from jaxrep.runs.exit_codes import ExitCode
from jaxrep.training import loop
from jaxrep.training.loop import train
from jaxrep.training.setup import make_loader
from tests.helpers.harness import LOADED, RECIPE, logged, tiny
from tests.helpers.tars import pairs, write

pytestmark = pytest.mark.usefixtures("cache")
STEPS = 6


def shard(path, *bad):
    """A shard of 24 pairs, of which some have a damaged picture."""
    return write(path, [(name, b"?" if name in bad else content) for name, content in pairs(range(24))])


@pytest.fixture
def run(tmp_path):
    """A run that is measured after steps 3 and 6, no checkpoint being due before; and the list of what it says."""
    data = TarShards(shards=f"{tmp_path}/x.tar", image_size=8)
    recipe = RECIPE.replace(
        {"checkpoint.every_steps": 100}, examples=STEPS * 8, evals=(Retrieval(data=data, every_steps=3),)
    )
    with logged() as messages:
        yield lambda: train(recipe, tmp_path / "run", LOADED, devices=jax.devices()[:1]), messages


def test_an_evaluation_that_cannot_be_made_leaves_its_step_to_go_on_from(run, tmp_path):
    go_on, said = run
    shard(tmp_path / "x.tar", "0003.png", "0007.png")
    told = r"^2 examples cannot be read \(the first: .*x.tar, member 0003.png: the image cannot be decoded .*more than"
    with pytest.raises(JaxrepError, match=told):
        go_on()
    assert any("step 3 is saved; to resume, run the same command" in text for text in said)
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
    shard(tmp_path / "x.tar")
    assert go_on() is ExitCode.DONE and "resuming from step 3 of 6" in said
    assert json.loads((tmp_path / "run" / "results.json").read_text())["retrieval/image_to_text/median_rank"] >= 1


def test_one_bad_example_ends_no_run_and_is_counted_among_the_metrics(run, tmp_path, capsys):
    go_on, _ = run
    shard(tmp_path / "x.tar", "0003.png")
    assert go_on() is ExitCode.DONE
    assert json.loads((tmp_path / "run" / "results.json").read_text())["retrieval/skipped_examples"] == 1
    assert "member 0003.png: the image cannot be decoded" in capsys.readouterr().err


def test_a_shard_of_an_evaluation_that_vanishes_is_named(run, tmp_path, monkeypatch):
    go_on, said = run
    shard(tmp_path / "x.tar")

    def begin(*args):
        (tmp_path / "x.tar").unlink(missing_ok=True)
        return make_loader(*args)

    monkeypatch.setattr(loop, "make_loader", begin)
    with pytest.raises(JaxrepError, match=r"there is no file .*x.tar"):
        go_on()
    assert any("step 3 is saved; to resume, run the same command" in text for text in said)
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()


def test_data_of_evaluations_are_opened_before_the_training(run, tmp_path):
    go_on, said = run
    with pytest.raises(JaxrepError, match=r"there is no file .*x.tar"):
        go_on()
    assert not said and not (tmp_path / "run").exists()


def test_labels_of_one_class_are_told_before_the_training(tmp_path):
    source = FewShot(source=Filter(source=tiny.Named(), where=(Where(column="label", at_most=0.0),)), count=5)
    recipe = RECIPE.replace(evals=(ZeroShot(data=source, name="zero"),), examples=16)
    with pytest.raises(
        JaxrepError, match=r"^zero: all 5 images of data \(FewShot\) have the 'label' 0, and two classes"
    ):
        train(recipe, tmp_path / "run", LOADED)
    assert not (tmp_path / "run").exists()


def test_a_run_keeps_the_fingerprints_of_the_data_of_its_results(run, tmp_path):
    shard(tmp_path / "x.tar")
    go_on, _ = run
    assert go_on() is ExitCode.DONE
    expected = TarShards(shards=f"{tmp_path}/x.tar", image_size=8).open().fingerprint()
    assert json.loads((tmp_path / "run" / "evaluation_data.json").read_text()) == {"retrieval": {"data": expected}}
    assert read_run(tmp_path / "run").eval_data["retrieval"]["data"]["examples"] == 24
