"""Digests of arrays: a few numbers by which a checkpoint is known to be what was saved.

They are sums of scrambled words, modulo 2**32: equal for the same bits however an array lies over devices and hosts,
and different, but for one case in 2**32, where any bit, or the place of any element, is another.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrep.batch import Array

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def digests(arrays: Mapping[str, Any]) -> dict[str, int]:
    """Path -> digest of its array, computed where the arrays lie."""
    # Each is awaited before the next: beyond 32 programs under way XLA's CPU client holds back a device's share of one
    # in a thread that the others' shares may need to meet it.
    return {path: int(_digest(array)) for path, array in arrays.items()}


@jax.jit  # of one array: a program a shape, and models have few shapes
def _digest(array: Array) -> Array:
    """uint32: the sum over all elements of their bits and their place, scrambled together."""
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(array, WORDS[array.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        stride = np.uint32(math.prod(bits.shape[axis + 1 :]) & 0xFFFFFFFF)
        place = place + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * stride
    return jnp.sum(_scramble(bits + _scramble(place + np.uint32(1))), dtype=jnp.uint32)


def _scramble(x: Array) -> Array:
    """A bijection of 32-bit words in which every bit depends on all (Wellons 2018, lowbias32)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
