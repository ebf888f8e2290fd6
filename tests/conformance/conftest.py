"""Share what is traced, compiled and initialized between the tests of experiments, and undo it after them."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy.stats import truncnorm

from jaxrep import params
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.recipe import Recipe
from jaxrep.runs import restore
from jaxrep.spec_json import to_json
from jaxrep.step import shapes
from jaxrep.step.train_state import TrainState
from jaxrep.step.train_step import CompiledStep
from jaxrep.training import loop, warm_start
from jaxrep.training.compilation import initialize
from jaxrep.training.setup import Setup


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
        yield known


# Programs that every experiment would compile for its own shapes -----------------------------------------------------


def initialize_with_host_draws(*args: Any) -> TrainState:
    """Initialize with NumPy's random numbers in place of JAX's, which are most of the time to compile it."""
    with pytest.MonkeyPatch.context() as patch:
        for draw in (normal, truncated_normal, uniform):
            patch.setattr(jax.random, draw.__name__, draw)
            patch.setattr(jax._src.random, draw.__name__, draw)  # what initializers call
        return initialize(*args)


def normal(key, shape=(), dtype=float, **_):
    return on_host(key, shape, dtype, lambda random: random.standard_normal(shape))


def truncated_normal(key, lower, upper, shape=(), dtype=float, **_):
    return on_host(key, shape, dtype, lambda random: truncnorm.rvs(lower, upper, size=shape, random_state=random))


def uniform(key, shape=(), dtype=float, minval=0.0, maxval=1.0, **_):
    return on_host(key, shape, dtype, lambda random: random.uniform(minval, maxval, shape))


def on_host(key: Any, shape: tuple[int, ...], dtype: Any, draw: Callable[[np.random.Generator], Any]) -> Any:
    """Draw on the host from a key, or from each of the keys of a ``vmap``, while a compiled function runs."""

    def call(data: Any) -> np.ndarray:
        keys = np.asarray(data).reshape(-1, data.shape[-1])
        drawn = np.array([draw(np.random.default_rng(key)) for key in keys], dtype)
        return drawn.reshape(*data.shape[:-1], *shape)

    result = jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(dtype))
    return jax.pure_callback(call, result, jax.random.key_data(key), vmap_method="expand_dims")


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
