"""Digests tell any change of an array, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxrep.mesh import Mesh
from jaxrep.params import digests

ARRAY = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 31), st.integers(0, 31))
def test_a_flipped_bit_is_told(place, bit):
    changed = ARRAY.copy()
    changed.view(np.uint32).reshape(-1)[place] ^= np.uint32(1 << bit)
    assert digests({"x": changed}) != digests({"x": ARRAY})


def test_exchanged_elements_are_told_and_another_name_is_not():
    changed = ARRAY.copy()
    changed[0, 0], changed[2, 5] = ARRAY[2, 5], ARRAY[0, 0]
    assert digests({"x": changed})["x"] != digests({"x": ARRAY})["x"] == digests({"y": ARRAY})["y"]


def test_two_hundred_thousand_digests_of_neighboring_values_hardly_meet():
    """As many collisions as random numbers would have, about 4.7 expected."""
    values = jnp.arange(200_000, dtype=jnp.int32)
    found = jax.vmap(lambda x: digest_of(x))(values)
    assert 200_000 - len(np.unique(np.asarray(found))) < 25


def digest_of(x):
    from jaxrep.params import _digest

    return _digest(jnp.stack([x, x // 7]))


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint32, jnp.int8, jnp.bool_, jnp.float32))
def test_every_type_has_one(dtype):
    one, other = (jnp.maximum(ARRAY * factor, 0).astype(dtype) for factor in (1, -3))
    assert digests({"x": one}) == digests({"x": np.asarray(one)}) != digests({"x": other})


def test_layout_over_devices_does_not_enter():
    mesh = Mesh(data=2, fsdp=4).build(jax.devices())
    for spec in (P(), P("fsdp"), P("data", "fsdp"), P(None, ("data", "fsdp"))):
        assert digests({"x": jax.device_put(ARRAY, NamedSharding(mesh, spec))}) == digests({"x": ARRAY})
