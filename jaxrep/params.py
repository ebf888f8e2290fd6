"""Split a module into its structure and flat dictionaries of arrays by path, and compute digests of arrays.

Everything downstream (gradients, optimizers, averages, sharding, checkpoints, rules) sees
``{"image/blocks/...": array}``.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrep.batch import Array, normalize

Arrays = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Structure:
    """Hold a module without its arrays; hashable, so that jitted functions close over it."""

    graph: Any
    tree: Any
    names: tuple[str, ...]
    trainable: frozenset[str]
    """Variables of type nnx.Param: an optimizer may change them, unless a rule freezes them."""
    limits: tuple[tuple[str, float, float], ...]
    """(path, low, high): limits of a parameter after an update."""
    unit_rows: tuple[str, ...] = ()
    """Parameters whose rows have unit length after an update."""

    def merge(self, *groups: Mapping[str, Array]) -> Any:
        """Return the module with these arrays."""
        arrays = {name: array for group in groups for name, array in group.items()}
        return nnx.merge(self.graph, jax.tree.unflatten(self.tree, [arrays[name] for name in self.names]))


def split(module: nnx.Module) -> tuple[Structure, Arrays]:
    """Return the structure of a module, and its arrays by path."""
    graph, state = nnx.split(module)
    flat = by_path(state)
    leaves, tree = jax.tree.flatten(state)
    limits = ((name, leaf.get_metadata().get("limits")) for name, leaf in flat.items())
    unit_rows = tuple(name for name, leaf in flat.items() if leaf.get_metadata().get("unit_rows"))
    structure = Structure(
        graph,
        tree,
        tuple(flat),
        frozenset(name for name, leaf in flat.items() if isinstance(leaf, nnx.Param)),
        tuple((name, *limit) for name, limit in limits if limit),
        unit_rows,
    )
    return structure, dict(zip(flat, leaves, strict=True))


def by_path(state: nnx.State) -> dict[str, Any]:
    """Return the variables of a module's state by path."""
    return {"/".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def apply_constraints(structure: Structure, params: Arrays) -> Arrays:
    """Return the parameters after an update with what their variables' metadata holds fixed.

    ``limits``: numbers are clipped to them (CLIP clips its logit scale). ``unit_rows``: rows are scaled to unit length
    (SwAV's prototypes).
    """
    held = {name: jnp.clip(params[name], low, high) for name, low, high in structure.limits if name in params}
    return {**params, **held, **{name: normalize(params[name]) for name in structure.unit_rows if name in params}}


# Digests -------------------------------------------------------------------------------------------------------------

WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


def digests(arrays: Mapping[str, Any]) -> dict[str, int]:
    """Return the digest of each array by path, computed where the arrays lie.

    A digest is a sum of scrambled words, modulo 2**32: equal for the same bits however an array lies over devices and
    hosts. If a bit or the place of an element changes, so does the digest, except in one case in 2**32.
    """
    # Each is awaited before the next: beyond 32 programs under way XLA's CPU client holds back a device's share of one
    # in a thread that the others' shares may need to meet it.
    return {path: int(_digest(array)) for path, array in arrays.items()}


@jax.jit  # of one array: a program a shape, and models have few shapes
def _digest(array: Array) -> Array:
    """Return uint32: the sum over all elements of their bits and their place, scrambled together."""
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(array, WORDS[array.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        stride = np.uint32(math.prod(bits.shape[axis + 1 :]) & 0xFFFFFFFF)
        place = place + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * stride
    return jnp.sum(_scramble(bits + _scramble(place + np.uint32(1))), dtype=jnp.uint32)


def _scramble(x: Array) -> Array:
    """Map 32-bit words one to one so that every bit depends on all bits (Wellons 2018, lowbias32)."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * np.uint32(0x846CA68B)
    return x ^ (x >> 16)
