"""Check that blocks of any number of rows are few and hold each row once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.distillation import prototype_cross_entropy, sinkhorn
from jaxrep.losses.geometry import nearest_other
from jaxrep.losses.pairwise.chunks import from_chunks, to_chunks
from jaxrep.mesh import ROWS, Mesh


def on(devices):
    return jax.set_mesh(Mesh(data=devices).build(jax.devices()[:devices]))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("count", [13, 104])
def test_every_row_is_in_one_block_and_order_is_restored(count, devices):
    rows = np.arange(1, count + 1)
    with on(devices):
        for block_size in (9, 40, 1000):
            blocks = to_chunks((rows, np.ones(count, bool)), block_size)
            held, here = (np.asarray(x) for x in blocks)
            assert held.shape[1] <= block_size
            assert sorted(held[here]) == rows.tolist() and not held[~here].any()
            np.testing.assert_array_equal(from_chunks(blocks[0], count), rows)


def test_block_has_rows_of_every_device():
    rows = np.arange(104)
    with on(8):
        placed = jax.device_put(rows, jax.NamedSharding(jax.sharding.get_mesh(), ROWS))
        blocks, here = jax.jit(to_chunks, static_argnums=1)((placed, np.ones(104, bool)), 40)
    assert blocks.shape == (3, 40)  # 13 rows a device make blocks of 5, 5 and 5, of which two are filled up
    for shard, mark in zip(blocks.addressable_shards, here.addressable_shards, strict=True):
        device = shard.index[1].start // 5
        assert sorted(shard.data[mark.data]) == list(range(13 * device, 13 * device + 13))


def scan_length(function, *args):
    """Return the number of steps of a function's scan."""
    (scan,) = (eqn for eqn in jax.make_jaxpr(function)(*args).eqns if eqn.primitive.name == "scan")
    return scan.params["length"]


@pytest.mark.parametrize(("devices", "count"), [(1, 1021), (8, 1021), (8, 8 * 1021)])
def test_prime_number_of_rows_needs_no_more_blocks(devices, count):
    x, table = jnp.zeros((count, 2)), jnp.zeros((3, 2))

    def cross_entropy(x):
        options = dict(pairs=np.ones((1, 1)), student_temperature=1.0, teacher_temperature=1.0)
        return prototype_cross_entropy(x[:, None], table, x[:, None], table, 0.0, **options)

    blocks = -(-count // 512)
    with on(devices):
        assert scan_length(cross_entropy, x) == blocks
        assert scan_length(lambda x: sinkhorn(x, table, 1.0, iterations=1), x) == blocks
        assert scan_length(nearest_other, x) == blocks
