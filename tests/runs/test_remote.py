"""A run behind a URL is the run that it would be in a directory, on whatever machine it goes on."""

import contextlib
import importlib.util
import json
import shutil
import socket
from pathlib import Path

import fsspec
import jax
import numpy as np
import pytest

import jaxrep
from jaxrep import cli
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.experiment import from_run
from jaxrep.runs import remote
from jaxrep.runs.remote import MARKER, RemoteMirror, fetch_run
from jaxrep.runs.restore import restore
from jaxrep.runs.run_dir import RunDir
from jaxrep.training.loop import train
from jaxrep.training.watchdog import Watchdog
from tests.helpers.harness import LOADED, RECIPE, logged, tiny

STEPS = 10
SAVED = RECIPE.replace({"checkpoint.keep": 2}, examples=8 * STEPS, evals=(Retrieval(data=tiny.Named()),))
CLOCKS = {"examples_per_second", "data_wait", "checkpoint_wait", "memory/process_peak_bytes"}


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine of its own; what fails is tried again at once."""
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0))


@pytest.fixture(scope="module")
def bucket():
    """gs://bucket, of an emulator that orbax, tensorstore and gcsfs talk to."""
    if not all(importlib.util.find_spec(name) for name in ("gcsfs", "gcp_storage_emulator")):
        pytest.skip("needs the extra gcs, and gcp-storage-emulator")
    from gcp_storage_emulator.handlers import objects  # pyright: ignore[reportMissingImports]
    from gcp_storage_emulator.server import create_server  # pyright: ignore[reportMissingImports]

    download = objects.download

    def with_generation(request, response, storage, *non_trainable):
        """The real store names a file's generation, by which it is written again; the emulator does not."""
        download(request, response, storage, *non_trainable)
        if response.status.value < 300:
            found = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = found["generation"]

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, f"http://127.0.0.1:{port}")
        patch.setenv("GOOGLE_CLOUD_PROJECT", "none")
        patch.setattr(objects, "download", with_generation)
        server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
        server.start()
        yield "gs://bucket"
        server.stop()


def go_on(place) -> list[str]:
    """Trains; what was said."""
    with logged() as messages:
        train(SAVED, place, LOADED, devices=jax.devices()[:1])
    return messages


def lines(folder: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKS} for line in found]


def stored(place: str) -> set[str]:
    """The files of a run in its store."""
    files, root = fsspec.core.url_to_fs(place)
    files.invalidate_cache()
    return {name.removeprefix(f"{root}/") for name in files.find(root)}


class Killed(BaseException):
    pass


def killed(place: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains until a step, after which nothing more is uploaded."""

    def step_ended(watchdog: Watchdog, step: int) -> None:
        if step == after:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Watchdog, "step_ended", step_ended)
        patch.setattr(RemoteMirror, "close", lambda spool: spool._thread.shutdown())
        go_on(place)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    go_on(folder)
    return folder


@pytest.mark.parametrize("kind", ("memory", "bucket"))
def test_a_run_killed_on_one_machine_goes_on_with_the_same_numbers_on_another(
    kind, request, unbroken, tmp_path, monkeypatch
):
    found = request.getfixturevalue(kind)
    place = f"{found if kind == 'bucket' else 'memory://runs'}/a"
    killed(place, 7, monkeypatch)
    assert not (fetch_run(place) / "results.json").exists()
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path / "another"))
    said = go_on(place)
    assert said[0] in [f"resuming from step {step} of {STEPS}" for step in (4, 6)]  # 6 may still have been under way
    copy = fetch_run(place)
    assert lines(copy) == lines(unbroken)
    for name in ("results.json", "recipe.json", "tokenizer.json", "bad_samples.json", "tiny.py"):
        assert (copy / name).read_bytes() == (unbroken / name).read_bytes(), name
    assert from_run(copy).name == "a"
    one, other = restore(place), restore(unbroken)
    assert one.step == other.step == STEPS
    for name, array in other.arrays.items():
        np.testing.assert_array_equal(one.arrays[name], array, err_msg=name)
    assert {name.split("/")[1] for name in stored(place) if name.startswith("checkpoints/")} == {"8", "10"}  # keep=2
    assert go_on(place) == [f"{place} is finished"]
    assert jaxrep.load(place).digest() == jaxrep.load(unbroken).digest()
    assert cli.main(["diff", place, str(unbroken)]) == 0


# The spool


@pytest.fixture
def spool(memory, tmp_path):
    found = RemoteMirror("memory://runs/a/", tmp_path / "spool")
    found.fetch()
    return found


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


CHECKPOINT = ("checkpoints/4/state/d/a", f"checkpoints/4/{MARKER}", "checkpoints/4/state/b")


def test_a_checkpoint_is_uploaded_before_its_marker_and_after_its_metrics_and_the_end_of_a_run_last(spool, monkeypatch):
    order: list[str] = []
    monkeypatch.setattr(RemoteMirror, "_put", lambda spool, name: order.append(name))
    monkeypatch.setattr(RemoteMirror, "_remove", lambda spool, name: order.append(name))
    write(spool.folder, *CHECKPOINT, "results.json", "metrics.jsonl", "tensorboard/events")
    spool.push()
    spool.uploaded()
    assert order[:2] == ["metrics.jsonl", "tensorboard/events"]
    assert set(order[2:4]) == {CHECKPOINT[0], CHECKPOINT[2]} and order[4:] == [CHECKPOINT[1], "results.json"]
    order.clear()
    shutil.rmtree(spool.folder / "checkpoints")
    spool.push()
    spool.uploaded()
    assert order[0] == CHECKPOINT[1] and set(order) == set(CHECKPOINT)


def test_only_what_changed_is_uploaded_and_nothing_that_is_being_written(spool, memory):
    write(spool.folder, "recipe.json", "metrics.jsonl", "lock", ".recipe.json.x1y2", "process-1.log/x")
    write(spool.folder, "checkpoints/4.orbax-checkpoint-tmp/state")
    spool.push()
    spool.uploaded()
    assert stored(spool.url) == {"recipe.json", "metrics.jsonl"}
    memory.rm("/runs/a/recipe.json")  # if it were uploaded again, it would be there again
    (spool.folder / "metrics.jsonl").write_text("more")
    spool.close()
    assert stored(spool.url) == {"metrics.jsonl"} and memory.cat("/runs/a/metrics.jsonl") == b"more"
    assert not spool.folder.exists()


def test_a_half_of_a_checkpoint_is_not_taken(memory, tmp_path):
    for name in (*CHECKPOINT, "checkpoints/8/state/d/a", "recipe.json", "tensorboard/events"):
        memory.pipe_file(f"/runs/a/{name}", name.encode())
    folder = fetch_run("memory://runs/a")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*CHECKPOINT, "recipe.json", "url"}
    assert (folder / CHECKPOINT[0]).read_text() == CHECKPOINT[0]


def test_a_checkpoint_that_is_removed_while_it_is_uploaded_gets_no_marker(spool, memory, monkeypatch):
    put = RemoteMirror._put

    def and_removed(spool: RemoteMirror, name: str) -> None:
        put(spool, name)
        if name == CHECKPOINT[0]:
            (spool.folder / name).unlink()

    write(spool.folder, *CHECKPOINT)
    monkeypatch.setattr(RemoteMirror, "_put", and_removed)
    spool.push()
    spool.uploaded()
    assert CHECKPOINT[1] not in stored(spool.url)


def test_what_a_store_refuses_for_a_moment_is_tried_again_and_what_it_refuses_for_good_is_told(
    spool, memory, monkeypatch
):
    faults = [OSError("busy"), OSError("busy")]
    write_to = memory.pipe_file

    def refusing(*args, **named):
        if faults:
            raise faults.pop()
        return write_to(*args, **named)

    monkeypatch.setattr(type(memory), "pipe_file", staticmethod(refusing))
    write(spool.folder, "metrics.jsonl")
    spool.push()
    spool.uploaded()
    assert stored(spool.url) == {"metrics.jsonl"}
    faults += 9 * [OSError("the bucket is gone")]
    write(spool.folder, "results.json")
    spool.push()
    with pytest.raises(JaxrepError, match=r"the upload to memory://runs/a failed \(the bucket is gone\)"):
        spool.uploaded()
    with pytest.raises(JaxrepError, match=r"is gone\); what is new stays in .*spool"):
        spool.close()
    assert (spool.folder / "results.json").exists()


@pytest.mark.parametrize("name", ["clip[seed=0]", "a*b", "what?"])
def test_name_of_a_run_in_place_is_no_pattern(name):
    with pytest.raises(UsageError, match=r"orbax takes .* for a pattern; name it otherwise"):
        RemoteMirror.of_training(f"gs://bucket/{name}")


def test_what_cannot_be_is_one_sentence(memory, monkeypatch):
    with pytest.raises(UsageError, match=r"memory://runs/none is not a run: it holds no recipe\.json"):
        fetch_run("memory://runs/none")
    with pytest.raises(UsageError, match="nowhere://runs/a cannot be reached"):
        RunDir.at("nowhere://runs/a")
    with (
        contextlib.closing(RunDir.at("memory://runs/a")),
        pytest.raises(UsageError, match="memory://runs/a is in use by"),
    ):
        RunDir.at("memory://runs/a")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UsageError, match="memory://runs/a: checkpoints of several processes are written to gs://"):
        RunDir.at("memory://runs/a")
