"""Share what is traced, compiled and initialized between the tests of experiments, and undo it after them."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep import params
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.evals.classification import linear_probe
from jaxrep.recipe import Recipe
from jaxrep.runs import restore
from jaxrep.spec_json import to_json
from jaxrep.step import shapes
from jaxrep.step.train_state import TrainState
from jaxrep.step.train_step import CompiledStep
from jaxrep.training import loop, warm_start
from jaxrep.training.compilation import initialize
from jaxrep.training.setup import Setup
from tests.helpers.host_draws import draws_on_host


@dataclasses.dataclass
class Start:
    """Hold what a run had before its first step."""

    setup: Setup
    state: TrainState
    """Initial state, on the host."""
    step: CompiledStep | None = None


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Start]]:
    """The starts of the runs of these tests by directory; each recipe is traced and compiled once."""
    known: dict[Path, Start] = {}

    def start(setup: Setup, *args: Any) -> Any:
        state, data = restore_or_initialize(setup, *args)
        known.setdefault(setup.run.path, Start(setup, jax.tree.map(np.asarray, state)))
        return state, data

    def compiled(
        recipe: Recipe, traced: Any, updater: Any, total_steps: int, mesh: Any, like: Any, programs: Any
    ) -> CompiledStep:
        step = compile_step(recipe, traced, updater, total_steps, mesh, like, programs)
        for one in known.values():
            if text(one.setup.recipe) == text(recipe):
                one.step = step
        return step

    restore_or_initialize = loop.restore_or_initialize
    compile_step = shared(loop.compile_step, lambda recipe, *args: (text(recipe), args[2], tuple(args[3].devices.flat)))
    compiled_here = compilation_cache(tmp_path_factory.mktemp("compiled"))
    with pytest.MonkeyPatch.context() as patch, compiled_here:
        trace = shared(shapes.trace_shapes, lambda recipe, fields=None: (text(recipe), repr(fields)))
        patch.setattr(shapes, "trace_shapes", trace)
        patch.setattr(restore, "trace_shapes", trace)
        patch.setattr(warm_start, "initialize", initialize_with_host_draws)
        patch.setattr(params, "_digest", digest_on_host)
        patch.setattr(loop, "restore_or_initialize", start)
        patch.setattr(loop, "compile_step", compiled)
        patch.setattr(OpenMoji, "open", shared(OpenMoji.open, lambda source: source))
        patch.setattr(linear_probe, "search_l2", one_strength)
        yield known


# Programs that every experiment would compile for its own shapes -----------------------------------------------------


def initialize_with_host_draws(*args: Any) -> TrainState:
    """Initialize with NumPy's random numbers."""
    with draws_on_host():
        return initialize(*args)


def digest_on_host(array: Any) -> int:
    """Return what ``params._digest`` does."""
    words = np.ascontiguousarray(array).reshape(-1)
    words = words.view(f"u{words.itemsize}").astype(np.uint32)
    place = np.arange(1, len(words) + 1, dtype=np.uint32)
    return int(np.sum(params._scramble(words + params._scramble(place)), dtype=np.uint32))


def shared(function: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, called once for each value of ``key`` of its arguments."""
    known: dict[Any, Any] = {}

    def call(*args: Any) -> Any:
        name = key(*args)
        if name not in known:
            known[name] = function(*args)
        return known[name]

    return call


def one_strength(score: Callable[[float], float]) -> float:
    """Stand for the search of a probe's penalty, which fits a dozen probes, by one fit."""
    score(1.0)
    return 1.0


class compilation_cache:
    """Keep compiled programs in a folder for the length of a ``with`` block."""

    def __init__(self, folder: Path):
        self._values = {"jax_compilation_cache_dir": str(folder), "jax_persistent_cache_min_compile_time_secs": 0.1}

    def __enter__(self) -> None:
        self._before = {name: getattr(jax.config, name) for name in self._values}
        self._set(self._values)

    def __exit__(self, *error: object) -> None:
        self._set(self._before)

    def _set(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            jax.config.update(name, value)


def text(recipe: Recipe) -> str:
    return json.dumps(to_json(recipe))
