"""What ends one process ends all: each says which one failed and why, and a checkpoint is left to go on from."""

import json
import sys
import threading
import time

import jax
import pytest

from jaxrep.errors import UsageError
from jaxrep.training import failures
from tests.training.test_hosts import ROOT, Launched


class Store:
    """The key-value store of a coordinator; and with which exit status this process would have been ended."""

    def __init__(self):
        self.held, self.ended, self.status = {}, threading.Event(), None

    def end(self, status):
        self.status = status
        self.ended.set()

    def key_value_set(self, key, value):
        if key in self.held:
            raise RuntimeError("ALREADY_EXISTS")
        self.held[key] = value

    def key_value_try_get(self, key):
        return self.held[key]


@pytest.fixture
def store(monkeypatch):
    """That of two processes, of which this one is the second."""
    store = Store()
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: None)
    monkeypatch.setattr(failures.os, "_exit", store.end)
    monkeypatch.setattr(failures.hosts, "client", lambda: store)
    monkeypatch.setattr(failures, "EVERY", 0.01)
    monkeypatch.setattr(failures, "GRACE", 0.1)
    return store


def test_an_error_is_told_once_and_goes_its_way(store):
    for error in (UsageError("the cache is full"), ValueError("later")):
        with pytest.raises(type(error), match=str(error)), failures.propagate_failures():
            raise error
    assert json.loads(store.held[failures.PLACE]) == {"process": 1, "told": "the cache is full", "status": 2}


def test_what_is_no_users_mistake_is_told_with_its_type(store):
    with pytest.raises(ValueError, match="too large"), failures.propagate_failures():
        raise ValueError("too large")
    words = json.loads(store.held[failures.PLACE])
    assert words["told"] == "ValueError: too large (its own output says where)" and words["status"] == 1


def test_an_error_of_another_process_ends_this_one_with_its_words_and_status(store, capsys):
    with failures.propagate_failures():
        store.held[failures.PLACE] = json.dumps({"process": 0, "told": "the cache is full", "status": 2})
        assert store.ended.wait(10)
    assert store.status == 2
    assert capsys.readouterr().err == "jaxrep: error: process 0 of 2 could not go on: the cache is full\n"


def test_a_process_that_meets_the_same_error_leaves_by_its_own(store, monkeypatch, capsys):
    monkeypatch.setattr(failures, "GRACE", 30.0)
    with pytest.raises(UsageError), failures.propagate_failures():
        store.held[failures.PLACE] = json.dumps({"process": 0, "told": "the cache is full", "status": 2})
        time.sleep(0.1)
        raise UsageError("the cache is full")
    assert not store.ended.is_set() and not capsys.readouterr().err


def test_a_run_of_one_process_needs_no_coordinator():
    with failures.propagate_failures():
        assert all(thread.name != "alarm" for thread in threading.enumerate()) and failures.all_hosts_reach("here")


KILLED = """
import os, signal
from pathlib import Path

class Killed(Examples):
    def __init__(self, inner):
        self.inner, self.parent = inner, os.getpid()
    def __len__(self):
        return len(self.inner)
    def column(self, name):
        return self.inner.column(name)
    def __getitem__(self, index):
        saved = any(Path(os.environ["RUN"], "checkpoints").glob("[0-9]*"))
        if saved and os.environ.get("KILLED") and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.inner[index]

@spec
class InWorkers(Named):
    def open(self):
        return Killed(super().open())

data = {"data.train": InWorkers(), "data.workers": 1, "checkpoint.every_steps": 50}
recipe = recipe.replace(data, examples=8 * 10**6)
"""
"""The tiny recipe for very long; where it is told so, the worker that reads is killed after the first checkpoint."""


@pytest.mark.slow
def test_a_worker_that_is_killed_on_one_process_ends_all_with_its_sentence(tmp_path, monkeypatch):
    (tmp_path / "killed.py").write_text((ROOT / "tests" / "helpers" / "tiny.py").read_text() + KILLED)
    run_dir = tmp_path / "run"
    monkeypatch.setenv("RUN", str(run_dir))
    words = [sys.executable, "-m", "jaxrep.cli", "train", f"{tmp_path}/killed.py:recipe", "--run-dir", str(run_dir)]
    both = Launched(words, 2, 1, tmp_path / "logs", KILLED="1")
    assert [process.wait(120) for process in both.all] == [1, 1], both.said()
    first, second = both.said()
    sentence = "a worker process that reads data was ended from outside"
    assert f"jaxrep: error: process 1 of 2 could not go on: {sentence}" in first
    assert f"jaxrep: error: {sentence}" in second
    assert "Traceback" not in first + second and "could not go on" not in second
    saved = list((run_dir / "checkpoints").glob("[0-9]*"))
    assert saved and all((step / "_CHECKPOINT_METADATA").exists() for step in saved)
