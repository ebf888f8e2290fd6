"""Tests run on eight simulated CPU devices, so that what is written for a mesh is tested on one everywhere.

Nearly all of their time is compilation, so programs are compiled without LLVM's optimizations: slower, and as exact.
"""

import contextlib
import gc
import os
import signal
import sys
import tempfile
import types
from importlib import metadata
from pathlib import Path

import fsspec
import pytest
from xdist.scheduler import LoadScopeScheduling

from jaxrep import cli
from jaxrep.signals import handle_signals

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="jaxrep-state-")  # records of trusted code are the test's own
FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
if metadata.version("jaxlib").startswith("0.10."):  # the older emitters, in half the time, while they are there
    FLAGS += ("--xla_cpu_use_fusion_emitters=false",)
    FLAGS += ("--xla_cpu_parallel_codegen_split_count=1",)  # an eighth less processor time
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))

SECONDS = pytest.StashKey[float]()


def pytest_addoption(parser):
    parser.addoption("--keep-recipes", action="store_true", help="write the resolved recipes that tests compare with")


def pytest_xdist_make_scheduler(config, log):
    return FileByFile(config, log)


class FileByFile(LoadScopeScheduling):
    """The tests of a file run in one process, one after another; those of experiments, by experiment."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        return file + test.partition("[")[2].partition(":")[0] if file.endswith("test_experiments.py") else file


def pytest_collection_finish(session):
    """Look for garbage rarely: tracing makes many objects, and nearly all of them are kept."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


# Processor time of each test, for benchmarks/test_time.py ------------------------------------------------------------


@contextlib.contextmanager
def _timed(item):
    start = sum(os.times()[:4])
    try:
        yield
    finally:
        item.stash[SECONDS] = item.stash.get(SECONDS, 0.0) + sum(os.times()[:4]) - start


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with _timed(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with _timed(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    try:
        with _timed(item):
            return (yield)
    finally:
        item.user_properties.append(("processor_seconds", round(item.stash[SECONDS], 3)))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("JAXREP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory():
    """The store behind memory://."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def signals_are_not_ignored():
    """Handle the signals of shells by default, also where the tests run under ``nohup``."""
    with handle_signals(signal.SIG_DFL, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)):
        yield


# The program ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def jaxrep_says(capsys):
    """Runs the program on words, or on a line of them; gives the exit status and what was printed on both streams."""

    def run(*words):
        try:
            status = cli.main(words[0].split() if len(words) == 1 else [str(word) for word in words])
        except SystemExit as leaves:
            status = leaves.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


TOY = '''"""Toy CLIP: which caption goes with which picture."""
from jaxrep import Data, From, Recipe, data, encoders, methods, objectives, optim, schedules, views

recipe = Recipe(
    data=Data(train=data.Csv(path="pairs.csv"), batch_size=64),
    views=(views.RandomResizedCrop("image", size=32, scale=(0.5, 1)),),
    method=methods.DualEncoder(
        towers={"image": encoders.ViT.ti16(), "text": encoders.TextTransformer(width=64, depth=2, heads=4)}, dim=64
    ),
    objective={"contrastive": objectives.Contrastive("image", "text")},
    optimizer=optim.AdamW(),
    schedule=schedules.WarmupCosine(peak=1),
    init={"image": From("runs/other")},
    examples=128,
)
tiny = recipe.replace({"data.batch_size": 4})
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/toy.py").write_text(TOY)
    return "experiments/toy.py"


@pytest.fixture
def trained(monkeypatch):
    """What the loop was called with, in place of a training."""
    calls = []
    loop = types.SimpleNamespace(train=lambda *args, **options: calls.append(args) or 0)
    monkeypatch.setitem(sys.modules, "jaxrep.training.loop", loop)
    return calls
