"""A run directory knows its recipe: the same goes on, another is refused."""

import contextlib
import dataclasses
import errno
import json
import os
import platform

import jax
import pytest

from jaxrep.data.tokenizers.base import Bytes
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.recipe import Logging
from jaxrep.runs.layout import write_json
from jaxrep.runs.run_dir import RunDir
from jaxrep.spec import difference
from jaxrep.training.loop import train
from tests.helpers.harness import LOADED, RECIPE, logged


def claimed(path, recipe=RECIPE, loaded=LOADED):
    """What was said."""
    with contextlib.closing(RunDir(path)) as run, logged() as messages:
        run.claim(recipe, dataclasses.replace(loaded, recipe=recipe) if loaded else None)
    return messages


def test_a_new_directory_becomes_the_runs_and_can_be_read_again_without_the_original(tmp_path):
    run = RunDir(tmp_path / "runs" / "a")
    assert not run.exists()
    assert claimed(run.path) == []
    assert {path.name for path in run.path.iterdir()} == {"recipe.json", "environment.json", "tiny.py", "lock"}
    assert (run.path / "tiny.py").read_text() == LOADED.path.read_text()
    assert run.exists() and run.results() is None
    assert difference(run.recipe(), RECIPE) == []
    write_json(run.path / "results.json", {"r1": 0.5})
    assert run.results() == {"r1": 0.5}


def test_the_same_recipe_goes_on_without_a_word(tmp_path):
    claimed(tmp_path)
    before = (tmp_path / "recipe.json").read_text()
    assert claimed(tmp_path) == []
    assert (tmp_path / "recipe.json").read_text() == before


def test_another_execution_goes_on_and_is_told_and_written(tmp_path):
    claimed(tmp_path)
    other = RECIPE.replace({"data.workers": 2, "mesh.fsdp": 4}, microbatch_size=4, log=Logging(every_steps=7))
    (said,) = claimed(tmp_path, other)
    assert said.splitlines() == [
        "resuming with other execution fields:",
        "data.workers: 0 -> 2",
        "microbatch_size: 0 -> 4",
        "mesh.fsdp: 1 -> 4",
        "log.every_steps: 2 -> 7",
        "log.tensorboard: False -> True",
    ]
    assert difference(RunDir(tmp_path).recipe(), other) == []


def test_another_identity_is_refused_with_the_difference_and_nothing_is_written(tmp_path):
    claimed(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError) as error:
        claimed(tmp_path, RECIPE.replace({"method.towers.image.width": 8, "data.workers": 2}, seed=3))
    assert str(error.value).splitlines() == [
        f"{tmp_path} holds a run of another recipe:",
        "data.workers: 0 -> 2",
        "method.towers.image.width: 6 -> 8",
        "seed: 0 -> 3",
        "choose another directory by --run-dir, or remove that one to start anew",
    ]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


OTHER = RECIPE.replace(seed=3)


def files_in(folder):
    """Return the content of all files by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_start_that_trained_nothing_is_set_aside_for_another_recipe(tmp_path):
    for number in (1, 2):
        claimed(tmp_path)
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        for name in ("tokenizer.json", "metrics.jsonl", "origins.json", "mine.txt"):
            (tmp_path / name).write_text("" if name == "metrics.jsonl" else name)
        before = files_in(tmp_path)
        run = RunDir(tmp_path)
        with logged() as messages:
            run.set_aside_unstarted(RECIPE, LOADED)
        assert messages == [] and files_in(tmp_path) == before
        with logged() as messages:
            run.set_aside_unstarted(OTHER, LOADED)
        aside = tmp_path / "unstarted" / str(number)
        assert messages == [
            f"{tmp_path} held another recipe, of a command that trained nothing: its files are now in {aside}"
        ]
        moved = files_in(aside)
        assert {"recipe.json", "environment.json", "tiny.py", "tokenizer.json", "origins.json"} < set(moved)
        assert all(before[name] == content for name, content in moved.items())
        after = files_in(tmp_path)
        left = {name for name in after if not name.startswith("unstarted/")}
        assert left == {"lock", "mine.txt"} and not run.exists()
        assert claimed(tmp_path, OTHER) == []
        (tmp_path / "recipe.json").unlink()


@pytest.mark.parametrize(
    "name",
    [
        *("results.json", "samples.npz", "evaluation_data.json", "model.safetensors", "metrics.jsonl"),
        *("checkpoints/5/state", "checkpoints", "damaged/5/state", "profile/trace"),
    ],
)
def test_what_training_wrote_is_never_set_aside(tmp_path, name):
    claimed(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("something")
    before = files_in(tmp_path)
    RunDir(tmp_path).set_aside_unstarted(OTHER, LOADED)
    with pytest.raises(UsageError, match="holds a run of another recipe"):
        claimed(tmp_path, OTHER)
    assert {**files_in(tmp_path), "lock": b""} == {**before, "lock": b""}


def test_a_run_that_another_process_starts_is_not_set_aside(tmp_path):
    with contextlib.closing(RunDir(tmp_path)) as run:
        run.claim(RECIPE, LOADED)
        with pytest.raises(UsageError, match=f"{tmp_path} is in use by process {os.getpid()}"):
            RunDir(tmp_path).set_aside_unstarted(OTHER, LOADED)
    assert not (tmp_path / "unstarted").exists()


def test_an_experiment_file_in_its_own_run_directory_stays(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(LOADED.path.read_text())
    loaded = dataclasses.replace(LOADED, path=own)
    claimed(tmp_path, RECIPE, loaded)
    RunDir(tmp_path).set_aside_unstarted(OTHER, loaded)
    assert own.read_text() == LOADED.path.read_text() and (tmp_path / "unstarted/1/recipe.json").exists()


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"the run directory .*file cannot be written: File exists; choose another"):
        claimed(tmp_path / "file")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxrep.runs.run_dir.write_json", full)
    with pytest.raises(UsageError, match="cannot be written: No space left on device; choose another by --run-dir"):
        claimed(tmp_path / "a")


def test_an_experiment_that_was_renamed_leaves_one_copy(tmp_path):
    claimed(tmp_path / "run")
    renamed = tmp_path / "renamed.py"
    renamed.write_text(LOADED.path.read_text())
    claimed(tmp_path / "run", loaded=dataclasses.replace(LOADED, path=renamed))
    assert [path.name for path in (tmp_path / "run").glob("*.py")] == ["renamed.py"]
    assert difference(RunDir(tmp_path / "run").recipe(), RECIPE) == []


def test_a_directory_is_one_process_at_a_time(tmp_path):
    """A lock belongs to an open file, so a second claim of one process stands for a second process."""
    with contextlib.closing(RunDir(tmp_path)) as run:
        run.claim(RECIPE, LOADED)
        with pytest.raises(UsageError) as error:
            claimed(tmp_path)
        assert str(error.value) == (
            f"{tmp_path} is in use by process {os.getpid()} on {platform.node()}: "
            "wait for its end, or choose another directory by --run-dir"
        )
    assert claimed(tmp_path) == []


def test_a_vocabulary_is_learned_once_and_kept(tmp_path):
    run = RunDir(tmp_path)
    texts = RECIPE.data.train.open().column("text")
    learned = run.tokenizer(RECIPE, lambda: texts)
    run.keep_tokenizer(learned)

    def never():
        raise AssertionError("the texts are read a second time")

    again = run.tokenizer(RECIPE, never)
    assert again.state == learned.state
    assert (again(texts).ids == learned(texts).ids).all()
    assert len(json.loads((tmp_path / "tokenizer.json").read_text())["words"]) == 8
    other = RunDir(tmp_path / "other")
    other.path.mkdir()
    assert other.tokenizer(RECIPE.replace({"data.tokenizer": Bytes(length=6)}), tuple)(["ab"]).ids.shape == (1, 6)


@pytest.mark.parametrize("content", ["{}", "[]", "5", "", '{"words": 3}', '{"words": [1, [2]]}', '{"words": null}'])
def test_damaged_vocabulary_is_one_sentence(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UsageError, match=r"tokenizer\.json is damaged"):
        RunDir(tmp_path).tokenizer(RECIPE, tuple)


def test_a_damaged_file_is_one_sentence(tmp_path):
    (tmp_path / "results.json").write_text('{"r1": ')
    with pytest.raises(UsageError, match=r"results\.json is damaged, not JSON: Expecting value: line 1 column 8"):
        RunDir(tmp_path).results()


def test_what_is_written_is_written_whole(tmp_path, monkeypatch):
    """A kill between the two writes leaves what was there before."""
    path = tmp_path / "results.json"
    write_json(path, {"name": "Käse"})
    assert path.read_text() == '{\n "name": "Käse"\n}\n'

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"name": "other"})
    assert json.loads(path.read_text()) == {"name": "Käse"}


@pytest.mark.parametrize("content", ["[]", "5", '"x"', '{"r1": "high"}', '{"r1": true}'])
def test_results_of_another_type_are_one_sentence(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UsageError, match=r"results\.json is damaged"):
        RunDir(tmp_path).results()


@pytest.mark.parametrize("name", ["/etc/passwd", "../other.py", "a/b.py", 3])
def test_experiment_named_by_a_run_is_a_plain_name(tmp_path, name):
    claimed(tmp_path)
    write_json(tmp_path / "environment.json", {"experiment": name})
    with pytest.raises(UsageError, match=r"experiment is .* expected the name of a file in"):
        claimed(tmp_path)


def test_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="cannot be written"):
        claimed(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("name", ["tiny.py", "metrics.jsonl", "samples.npz", "results.json", "tokenizer.json"])
def test_link_in_place_of_a_file_is_not_written_through(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with contextlib.suppress(JaxrepError):
        train(RECIPE.replace(examples=8), tmp_path / "run", LOADED, devices=jax.devices()[:1])
    assert not (tmp_path / "precious").exists()


def test_link_in_place_of_a_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "results.json.tmp").symlink_to(tmp_path / "precious")
    write_json(tmp_path / "results.json", {"r1": 0.5})
    assert (tmp_path / "precious").read_text() == "kept"
