"""How rows that lie over a mesh meet all rows of the other side: gathered, or passed around a ring.

Each of n devices holds its own rows of a [B/n,D] and of b [B/n,D], and these functions run inside ``shard_map`` over
``how.axes``. Both ways give a device, for its own rows, what ``kernel.forward`` and ``kernel.backward`` give on one
device of all rows, in the same signature.

- *Gather*: every device receives all rows of b; a device's part of what belongs to b is scattered back to its owner.
- *Ring*: rows of b travel from device to device, and what belongs to them (statistics, derivatives) travels with
  them, so that no device ever holds more than B/n rows of either side.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrep.batch import Array
from jaxrep.losses.pairwise import pallas, scan
from jaxrep.losses.pairwise.scan import How, Pull, Rows, Stats


def gather_forward(how: How, a: Rows, b: Rows, bias: Array | None) -> tuple[Stats, Stats | None]:
    """Statistics [B/n] of this device's rows of a, and of its rows of b; b is gathered."""
    rows, columns = pallas.forward(how, a, _gather(how, b), bias)
    if columns is None:
        return rows, None
    start = scan.nothing(how, len(b.x))
    columns, _ = jax.lax.scan(
        lambda one, other: (how.reduction.merge(one, other), None), start, _to_owners(how, columns)
    )
    return rows, columns


def gather_backward(
    how: How, a: Rows, b: Rows, bias: Array | None, rows: Pull, columns: Pull
) -> tuple[Array, Array, Any]:
    """Derivatives by this device's rows of a and of b [B/n,D], and by the bias; b is gathered."""
    d_a, d_b, d_bias = pallas.backward(how, a, _gather(how, b), bias, rows, _gather(how, columns))
    return d_a, jax.lax.psum_scatter(d_b, how.axes, tiled=True), jax.lax.psum(d_bias, how.axes)


def ring_forward(how: How, a: Rows, b: Rows, bias: Array | None) -> tuple[Stats, Stats | None]:
    """Statistics [B/n] of this device's rows of a, and of its rows of b; b travels n hops."""

    def hop(carry, _):
        rows, visitor, columns = carry
        # Sent before the work on it, so that the transfer can hide behind the work.
        onward = _pass_on(how, visitor)
        more_rows, more_columns = pallas.forward(how, a, visitor, bias)
        if more_columns is not None:
            columns = _pass_on(how, how.reduction.merge(columns, more_columns))
        return (how.reduction.merge(rows, more_rows), onward, columns), None

    start = (scan.nothing(how, len(a.x)), b, scan.nothing(how, len(b.x)) if how.columns else None)
    (rows, _, columns), _ = jax.lax.scan(hop, start, None, length=_devices(how))
    return rows, columns


def ring_backward(
    how: How, a: Rows, b: Rows, bias: Array | None, rows: Pull, columns: Pull
) -> tuple[Array, Array, Any]:
    """Derivatives by this device's rows of a and of b [B/n,D], and by the bias; b travels n hops."""

    def hop(carry, _):
        d_a, (visitor, pull), d_b, d_bias = carry
        onward = _pass_on(how, (visitor, pull))
        more_a, more_b, more_bias = pallas.backward(how, a, visitor, bias, rows, pull)
        d_a, d_b, d_bias = jax.tree.map(jnp.add, (d_a, d_b, d_bias), (more_a, more_b, more_bias))
        return (d_a, onward, _pass_on(how, d_b), d_bias), None

    zero_bias = None if bias is None else scan.own(how, jnp.zeros(()))
    start = (jnp.zeros_like(a.x), (b, columns), jnp.zeros_like(b.x), zero_bias)
    (d_a, _, d_b, d_bias), _ = jax.lax.scan(hop, start, None, length=_devices(how))
    return d_a, d_b, jax.lax.psum(d_bias, how.axes)


def _devices(how: How) -> int:
    """n."""
    return jax.lax.axis_size(how.axes)


def _gather(how: How, tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.all_gather(x, how.axes, tiled=True), tree)


def _to_owners(how: How, tree: Any) -> Any:
    """[B] a device -> [n,B/n]: what each of the n devices has for the rows of this one."""
    return jax.tree.map(
        lambda x: jax.lax.all_to_all(x.reshape(_devices(how), -1), how.axes, split_axis=0, concat_axis=0), tree
    )


def _pass_on(how: How, tree: Any) -> Any:
    """Each device's values to the next one of the ring."""
    n = _devices(how)
    ring = [(i, (i + 1) % n) for i in range(n)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, how.axes, ring), tree)
