"""Checkpoints in folders of any name, on disks that fail, and beside damaged files."""

import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.errors import DISK_ERRNOS, JaxrepError, disk_fault
from jaxrep.recipe import Checkpointing
from jaxrep.runs.checkpoints import Checkpoints, CorruptCheckpoint
from tests.helpers.harness import logged

STATE = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.int32(3)}
LIKE = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, STATE))
NAMES = (
    "clip[seed=0]",
    "a*b",
    "what?",
    r"back\slash",
    "two words",
    "ünïcode 図",
    "%41#x",
    "{a,b}",
    "new\nline",
    "~",
    "'\"",
)


def opened(folder, **fields):
    return closing(Checkpoints(folder, Checkpointing(**fields)))


@pytest.mark.parametrize("name", NAMES)
def test_name_of_a_folder_is_no_pattern(tmp_path, name):
    folder = tmp_path / name
    for step in (1, 2):
        with opened(folder) as checkpoints:
            checkpoints.save(step, STATE, {"position": step})
            checkpoints.wait()
    with opened(folder) as checkpoints:
        step, state, meta = checkpoints.restore_latest(LIKE) or pytest.fail("there is no checkpoint")
        assert (step, meta["position"]) == (2, 2)
        np.testing.assert_array_equal(state["a/b"], STATE["a/b"])
        assert checkpoints.arrays(1).keys() == STATE.keys()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["1", "2"]


@pytest.mark.parametrize("lost", ["meta/metadata", "digests/metadata", "state/_METADATA"])
def test_checkpoint_that_cannot_be_read_back_is_not_called_saved(tmp_path, monkeypatch, lost):
    with opened(tmp_path) as checkpoints:
        finish = checkpoints._manager.wait_until_finished

        def finish_and_lose():
            finish()
            (tmp_path / "checkpoints" / "1" / lost).unlink()

        checkpoints.save(1, STATE, {"position": 1})
        monkeypatch.setattr(checkpoints._manager, "wait_until_finished", finish_and_lose)
        with pytest.raises(CorruptCheckpoint, match="the checkpoint of step 1 "):
            checkpoints.wait()
        monkeypatch.undo()


@pytest.mark.parametrize("content", ["{{{", "", "[]", '"x"', '{"r1": "high"}', "\x00"])
def test_damaged_metrics_are_put_aside_and_the_run_goes_on(tmp_path, content):
    for step, value in ((1, 0.5), (2, 0.9)):
        with opened(tmp_path, best="r1", keep=3) as checkpoints:
            checkpoints.save(step, STATE, {"position": step}, {"r1": value})
    (tmp_path / "checkpoints" / "2" / "metrics" / "metrics").write_text(content)
    with logged() as messages, opened(tmp_path, best="r1", keep=3) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best("r1")) == (2, 1)
        assert (checkpoints.restore_latest(LIKE) or [0])[0] == 2
        checkpoints.save(3, STATE, {"position": 3}, {"r1": 0.1})
    assert len(messages) == 1 and "metrics is damaged" in messages[0]
    assert (tmp_path / "damaged" / "2-metrics").read_text() == content


def test_file_in_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(JaxrepError, match=r"could not be written to .*checkpoints: File exists; none was written"):
        Checkpoints(tmp_path, Checkpointing())


@pytest.mark.parametrize("number", DISK_ERRNOS, ids=errno.errorcode.get)
def test_faults_of_a_disk_are_known_in_the_words_of_any_library(number):
    words = os.strerror(number)
    assert disk_fault(OSError(number, words, "/a")) == words
    assert disk_fault(ValueError(f'OUT_OF_RANGE: Error writing "c/0": {words} [os_error_code="{number}"]')) == words
    assert disk_fault(ValueError("shapes differ")) == ""


PROGRAM = """
import logging, resource, sys
from pathlib import Path
import jax, numpy as np
from jaxrep.errors import JaxrepError
from jaxrep.recipe import Checkpointing
from jaxrep.runs.checkpoints import Checkpoints

logging.basicConfig(format="%(message)s", level="WARNING")
folder = Path(sys.argv[1])
state = {str(n): np.random.default_rng(n).normal(size=50_000) for n in range(8)}
checkpoints = Checkpoints(folder, Checkpointing(keep=9))
try:
    exec(sys.argv[2])
except JaxrepError as error:
    sys.exit(f"jaxrep: error: {error}")
finally:
    try:
        checkpoints.close()
    except JaxrepError:
        pass
"""
SAVE = "checkpoints.save(2, state, {}); checkpoints.wait()"
TOO_LARGE = f"resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1)); {SAVE}"
NO_FOLDER = f"(folder / 'checkpoints').rename(folder / 'c'); (folder / 'checkpoints').touch(); {SAVE}"
DAMAGED = (
    "checkpoints.save(2, state, {}); checkpoints.wait();"
    "[file.unlink() for file in (folder / 'checkpoints' / '2' / 'state').rglob('d/*')];"
    "like = jax.eval_shape(lambda: state); assert checkpoints.restore_latest(like)[0] == 1"
)


@pytest.mark.parametrize(
    ("program", "status", "sentence"),
    [
        (TOO_LARGE, 1, "jaxrep: error: a checkpoint could not be written to {}/checkpoints: File too large; the one"),
        (NO_FOLDER, 1, "jaxrep: error: a checkpoint could not be written to {}/checkpoints: "),
        (DAMAGED, 0, "the checkpoint of step 2 cannot be read ("),
    ],
    ids=["file too large", "cannot be begun", "damaged"],
)
def test_program_prints_one_line_and_ends(tmp_path, program, status, sentence):
    with opened(tmp_path) as checkpoints:
        state = {str(n): np.random.default_rng(n).normal(size=50_000) for n in range(8)}
        checkpoints.save(1, state, {})
    words = [sys.executable, "-c", PROGRAM, str(tmp_path), program]
    run = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[2])
    assert run.returncode == status, run.stderr
    assert sentence.format(tmp_path) in run.stderr, run.stderr
    assert len(run.stderr.splitlines()) == 1, run.stderr
