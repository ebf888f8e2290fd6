"""A queue holds the rows of the last steps, newest first, with their ids; it is read before it is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import INFERENCE, StepContext
from jaxrep.methods.queue import Queue
from jaxrep.methods.state import NonTrainable

RNG = np.random.default_rng(0)
STEPS = [RNG.normal(size=(4, 3)).astype(np.float32) for _ in range(5)]
IDS = [np.arange(4, dtype=np.int32) + 10 * i for i in range(5)]
CTX = StepContext(batch_size=4)


def after(spec: Queue, steps: int):
    """Return the module before any step, and the rows and ids after some."""
    queue = spec.build(nnx.Rngs(0), inputs=nnx.Module())
    first = {name: np.asarray(x) for name, x in queue(CTX).items()}
    for x, ids in zip(STEPS[:steps], IDS, strict=False):
        for name, new in queue.update(nnx.Module(), {"key": x}, {"image_id": ids}, CTX).items():
            getattr(queue, name).set_value(new)
    return first, queue(CTX)


def unit(x):
    return np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True)


@pytest.mark.parametrize("unit_rows", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_newest_rows_come_first_and_the_oldest_leave(steps, unit_rows):
    first, now = after(Queue(size=12, width=3, of="key", ids="image_id", unit=unit_rows), steps)
    lengths = np.linalg.norm(first["queue"], axis=1)
    assert np.allclose(lengths, 1, atol=1e-6) == unit_rows and lengths.std() > 0.2 * (not unit_rows)
    assert (first["queue_id"] == -1).all() and first["queue_id"].dtype == np.int32
    rows = [unit(x) if unit_rows else x for x in STEPS[:steps]][::-1]
    np.testing.assert_allclose(now["queue"], np.concatenate([*rows, first["queue"]])[:12], rtol=1e-6)
    ids = np.concatenate([*IDS[:steps][::-1], first["queue_id"]])[:12]
    np.testing.assert_array_equal(now["queue_id"], ids)


def test_without_ids_there_are_none_and_the_values_are_no_parameters():
    _, now = after(Queue(size=8, width=3, of="key"), 1)
    assert {*now} == {"queue"}
    queue = Queue(size=8, width=3, of="key").build(nnx.Rngs(0), inputs=nnx.Module())
    values = jax.tree.leaves(nnx.state(queue), is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    assert values and all(isinstance(value, NonTrainable) for value in values)
    assert queue(INFERENCE)["queue"].shape == (8, 3)


def test_other_seeds_start_with_other_rows():
    one, other = (
        Queue(size=8, width=3, of="key").build(nnx.Rngs(i), inputs=nnx.Module())(CTX)["queue"] for i in (0, 1)
    )
    assert np.abs(one - other).max() > 0.1


def test_mistakes_are_told():
    queue = Queue(size=12, width=3, of="b/target", ids="image_id").build(nnx.Rngs(0), inputs=nnx.Module())
    with pytest.raises(ValueError, match="a queue of 12 rows is no multiple of the batch of 8: take size = 16"):
        queue(StepContext(batch_size=8))
    rows = {"b/target": jnp.ones((4, 5))}
    with pytest.raises(ValueError, match=r"width = 3 .* 'b/target' has shape \(4, 5\): set width to its last axis"):
        queue.update(nnx.Module(), rows, {}, CTX)
    with pytest.raises(ValueError, match=r"'b/target', which is missing: .*b/targets"):
        queue.update(nnx.Module(), {"b/targets": STEPS[0]}, {}, CTX)
    with pytest.raises(ValueError, match="a queue reads the field 'image_id', which the batch lacks"):
        queue.update(nnx.Module(), {"b/target": STEPS[0]}, {"label": IDS[0]}, CTX)
    with pytest.raises(ValueError, match=r"keeps integers \[B\] as ids, and 'image_id' is float32"):
        queue.update(nnx.Module(), {"b/target": STEPS[0]}, {"image_id": STEPS[0][:, 0]}, CTX)
