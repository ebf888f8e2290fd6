"""Measure a recipe's training step on synthetic batches: no data file is read."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxrep.batch import Field
from jaxrep.data.fields import batch_fields
from jaxrep.mesh import ROWS, local_rows, put_batch
from jaxrep.recipe import Recipe
from jaxrep.step.shapes import fit_devices
from jaxrep.step.train_state import abstract_state
from jaxrep.step.train_step import compile_step
from jaxrep.training.compilation import initialize
from jaxrep.training.metric_writers import device_memory

WARM_STEPS = 2
"""Steps after the first one that are not measured."""


def measure_step(recipe: Recipe, steps: int = 10, devices: Sequence[Any] | None = None) -> dict[str, float]:
    """Return the speed, utilization and memory of a recipe's step, and the seconds until it runs.

    A batch has random pictures and tokens, texts of full length, and the rows that the recipe says. Parts start from
    new values. The time of a step is the median.

    Args:
        recipe: the recipe. Its data are not opened.
        steps: steps to measure.
        devices: devices to use; all by default.

    Raises:
        UsageError: the recipe has mistakes, or does not fit the devices.
    """
    data, start = recipe.data, time.perf_counter()
    shapes, mesh, updater = fit_devices(recipe, devices)
    rows = jax.NamedSharding(mesh, ROWS)
    batch = synthetic_batch(batch_fields(data.train, data.tokenizer, data.texts), data.batch_size)
    here = local_rows(rows, data.batch_size)
    batch = put_batch({name: values[here] for name, values in batch.items()}, rows, data.batch_size)
    with jax.set_mesh(mesh):
        like = abstract_state(recipe, shapes, updater, mesh)
        state = initialize(recipe, shapes, updater, like)
        prepared = time.perf_counter()
        step = compile_step(recipe, shapes, updater, WARM_STEPS + steps + 1, mesh, like)
        compiled, times = time.perf_counter(), []
        for _ in range(1 + WARM_STEPS + steps):
            begin = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready((state, metrics["loss"]))
            times.append(time.perf_counter() - begin)
    seconds, count = statistics.median(times[1 + WARM_STEPS :]), mesh.devices.size
    rate = data.batch_size / seconds
    return {
        "devices": count,
        "step_seconds": seconds,
        "examples_per_second": rate,
        "examples_per_second_per_device": rate / count,
        **step.flops_of(batch).utilization(seconds, count, mesh.devices.flat[0].device_kind),
        **device_memory(),
        "seconds_to_prepare": prepared - start,
        "seconds_to_compile": compiled - prepared,
        "seconds_to_first_step": compiled - start + times[0],
    }


def synthetic_batch(fields: Mapping[str, Field], size: int) -> dict[str, np.ndarray]:
    """Return random arrays of these fields: numbers within their classes or [0, 1), ids that all differ."""
    rng = np.random.default_rng(0)

    def values(field: Field) -> np.ndarray:
        shape, dtype = (size, *field.shape), np.dtype(field.dtype)
        if dtype.kind == "b":
            return np.ones(shape, bool)
        if dtype == np.uint8:
            return rng.integers(0, 256, shape, np.uint8)
        if dtype.kind == "f":
            return rng.random(shape, np.float32).astype(dtype)
        if field.classes:
            return rng.integers(0, field.classes, shape, dtype)
        return np.broadcast_to(np.arange(size, dtype=dtype).reshape(size, *(1,) * len(field.shape)), shape).copy()

    return {name: values(field) for name, field in fields.items()}
