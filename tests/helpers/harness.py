"""What tests of training share: the tiny recipe, its batches, and a set-up on as many devices as a test wants."""

import collections
import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrep.batch import StepContext
from jaxrep.data.loading.loader import Tokenize, to_arrays
from jaxrep.experiment import load
from jaxrep.mesh import ROWS, Mesh
from jaxrep.recipe import Recipe
from jaxrep.runs.run_dir import RunDir
from jaxrep.step import grad_cache
from jaxrep.step.shapes import Shapes, trace_shapes
from jaxrep.step.train_state import TrainState, initial_state
from jaxrep.step.train_step import CompiledStep, compile_step, kept_outputs
from jaxrep.training.setup import Setup
from tests.helpers.host_draws import draws_on_host

LOADED = load(str(Path(__file__).with_name("tiny.py")))
tiny: Any = LOADED.module
RECIPE: Recipe = tiny.recipe
QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of a compilation that takes a third of the time: what it makes is slow, and as exact."""


TRACED: collections.deque[tuple[Recipe, Shapes]] = collections.deque(maxlen=16)
"""The last recipes that were traced."""


def traced(recipe: Recipe) -> Shapes:
    """What the recipe builds, by shape."""
    for known, shapes in TRACED:
        if known == recipe:
            return shapes
    TRACED.append((recipe, trace_shapes(recipe)))
    return TRACED[-1][1]


def set_up(recipe: Recipe, folder: Path = Path(), devices: int = 1) -> Setup:
    """The recipe on the first of the simulated devices. It writes nothing."""
    examples, found = recipe.data.train.open(), traced(recipe)
    return Setup(
        recipe=recipe,
        shapes=found,
        mesh=recipe.mesh.build(jax.devices()[:devices]),
        run=RunDir(folder),
        examples=examples,
        order=examples.ordered_indices(recipe.data.order, recipe.data.batch_size),
        tokenizer=recipe.data.tokenizer.load(examples.column("text")),
        updater=found.updater(recipe),
        total_steps=recipe.total_steps(len(examples)),
    )


def started(setup: Setup) -> TrainState:
    """Return the state before the first step, with random numbers of NumPy."""
    with draws_on_host():
        make = jax.jit(lambda: initial_state(setup.recipe, setup.shapes, setup.updater), compiler_options=QUICK)
        return jax.block_until_ready(make())


def compiled(setup: Setup) -> CompiledStep:
    """Return the step of a set-up, compiled for its devices."""
    return compile_step(setup.recipe, setup.shapes, setup.updater, setup.total_steps, setup.mesh)


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """Collect what jaxrep logs within."""
    messages: list[str] = []
    handler, logger = logging.Handler(), logging.getLogger("jaxrep")
    handler.emit = lambda record: messages.append(record.getMessage())
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@functools.cache
def batch(step: int = 0) -> dict[str, np.ndarray]:
    """The batch of a step of the tiny recipe, in the order of its source."""
    examples = RECIPE.data.train.open()
    tokens = Tokenize(RECIPE.data.tokenizer.load(examples.column("text")))
    rows = np.arange(8 * step, 8 * step + 8)
    return to_arrays(examples.gather(rows % len(examples)), tokens) | {
        "position": np.stack([0 * rows, rows], 1).astype(np.uint32)
    }


def ctx(step: Any = 0, total_steps: int = 10) -> StepContext:
    """The moment of a step, with the positions of its batch."""
    return StepContext(
        step=np.int32(step),
        base_key=jax.random.key(0),
        positions=batch(int(step))["position"],
        total_steps=total_steps,
        batch_size=8,
    )


def drawn(arrays: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Values for arrays that are known by shape: no initializer is compiled."""
    rng = np.random.default_rng(seed)
    return {path: np.asarray(rng.normal(size=leaf.shape), leaf.dtype) for path, leaf in arrays.items()}


def computed(recipe: Recipe, sizes: tuple[int, ...], spread: float = 1.0):
    """Ways to compute a recipe's gradients, jitted together: (params, batch, context) -> {size: ...}; 0: whole. And the
    parameters, drawn with a standard deviation of ``spread``."""
    found = traced(recipe)
    params = found.trained(found.updater(recipe))
    keep = kept_outputs(recipe)
    values = {path: np.asarray(spread * value, value.dtype) for path, value in drawn(found.arrays).items()}
    non_trainable = {path: value for path, value in values.items() if path not in params}

    @functools.partial(jax.jit, compiler_options=QUICK)
    def both(params, batch, ctx):
        def by(size):
            of = found.computation
            args = (params, non_trainable, batch, dataclasses.replace(ctx, positions=batch["position"]))
            one, gradients = (
                grad_cache.value_and_grad(of, *args, size=size, keep=keep) if size else of.value_and_grad(*args)
            )
            return one[0], one[1], gradients

        return {size: by(size) for size in sizes}

    return both, {path: values[path] for path in params}


def agree(found: Any, size: int, rounding: float = 2e-6) -> None:
    """Loss, metrics and gradients by microbatches of ``size`` are those of the whole batch.

    ``rounding``: of a gradient, in units of its largest number, or of 1 where that is smaller.
    """
    (loss, metrics, gradients), (loss_by, metrics_by, gradients_by) = found[0], found[size]
    # Rows are summed in another order, and that in float32: a few units in the last place of the largest number.
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5)
    close(loss_by, loss)
    assert metrics_by.keys() == metrics.keys()
    for name, value in metrics.items():
        close(metrics_by[name], value, atol=1e-6, err_msg=name)
    assert gradients_by.keys() == gradients.keys()
    for path, leaf in gradients.items():
        close(gradients_by[path], leaf, atol=rounding * max(1.0, np.abs(leaf).max()), err_msg=path)


def exact(recipe: Recipe, *, size: int, devices: int, spread: float = 1.0, rounding: float = 2e-6) -> Any:
    """Checks that gradients by microbatches whose rows lie over many devices are those of the whole batch on one.

    Returns (loss, metrics, gradients) of the whole batch.
    """
    whole, params = computed(recipe, (0,), spread)
    parts, _ = computed(recipe, (size,), spread)
    one = jax.device_get(whole(params, batch(), ctx()))
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    rows, everywhere = jax.NamedSharding(mesh, ROWS), jax.NamedSharding(mesh, jax.P())
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, everywhere), jax.device_put(batch(), rows)
        agree({**one, **jax.device_get(parts(*placed, ctx()))}, size, rounding)
    return one[0]
