"""Reduce over pairs of rows that are sharded over a mesh: rows of b are gathered, or sent around a ring.

Each of n devices holds its shard of a [A/n,D] and of b [B/n,D], and these functions run inside ``shard_map`` over
``config.axes``. Both ways return, for the device's shard, what ``pallas.forward`` and ``pallas.backward`` return for
all rows on one device, with the same signature.

- *Gather*: every device receives all rows of b; statistics and derivatives of b are sent back to their devices.
- *Ring*: rows of b travel from device to device together with their statistics and derivatives, so that no device
  ever holds more than B/n rows of either side.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxrep.losses.pairwise import pallas, scan
from jaxrep.losses.pairwise.scan import Bias, Config, Cotangents, Gradients, Rows, Stats


def gather_forward(config: Config, a: Rows, b: Rows, bias: Bias) -> tuple[Stats, Stats | None]:
    """Return the statistics of this device's rows of a and of b; b is gathered."""
    rows, columns = pallas.forward(config, a, _all_gather(config, b), bias)
    if columns is None:
        return rows, None
    start = scan.empty_statistics(config, len(b.x))
    columns, _ = jax.lax.scan(
        lambda stats, other: (config.reduction.merge(stats, other), None), start, _all_to_all(config, columns)
    )
    return rows, columns


def gather_backward(config: Config, a: Rows, b: Rows, bias: Bias, rows: Cotangents, columns: Cotangents) -> Gradients:
    """Return the derivatives by this device's rows of a and of b, and by the bias; b is gathered."""
    d_a, d_b, d_bias = pallas.backward(config, a, _all_gather(config, b), bias, rows, _all_gather(config, columns))
    return d_a, jax.lax.psum_scatter(d_b, config.axes, tiled=True), jax.lax.psum(d_bias, config.axes)


def ring_forward(config: Config, a: Rows, b: Rows, bias: Bias) -> tuple[Stats, Stats | None]:
    """Return the statistics of this device's rows of a and of b; b travels n hops."""

    def hop(carry, _):
        rows, shard, columns = carry
        # Sent before the computation, so that the transfer can overlap with it.
        next_shard = _send_to_next(config, shard)
        new_rows, new_columns = pallas.forward(config, a, shard, bias)
        if new_columns is not None:
            columns = _send_to_next(config, config.reduction.merge(columns, new_columns))
        return (config.reduction.merge(rows, new_rows), next_shard, columns), None

    columns = scan.empty_statistics(config, len(b.x)) if config.columns else None
    start = (scan.empty_statistics(config, len(a.x)), b, columns)
    (rows, _, columns), _ = jax.lax.scan(hop, start, None, length=jax.lax.axis_size(config.axes))
    return rows, columns


def ring_backward(config: Config, a: Rows, b: Rows, bias: Bias, rows: Cotangents, columns: Cotangents) -> Gradients:
    """Return the derivatives by this device's rows of a and of b, and by the bias; b travels n hops."""

    def hop(carry, _):
        d_a, (shard, cotangents), d_b, d_bias = carry
        next_shard = _send_to_next(config, (shard, cotangents))
        new = pallas.backward(config, a, shard, bias, rows, cotangents)
        d_a, d_b, d_bias = jax.tree.map(jnp.add, (d_a, d_b, d_bias), new)
        return (d_a, next_shard, _send_to_next(config, d_b), d_bias), None

    zero_bias = None if bias is None else scan.device_varying(config, jnp.zeros(()))
    start = (jnp.zeros_like(a.x), (b, columns), jnp.zeros_like(b.x), zero_bias)
    (d_a, _, d_b, d_bias), _ = jax.lax.scan(hop, start, None, length=jax.lax.axis_size(config.axes))
    return d_a, d_b, jax.lax.psum(d_bias, config.axes)


def _all_gather(config: Config, tree: Any) -> Any:
    return jax.lax.all_gather(tree, config.axes, tiled=True)


def _all_to_all(config: Config, tree: Any) -> Any:
    """Send statistics [B] of all rows of b to the devices of these rows: [n,B/n], one row per sender."""
    by_device = jax.tree.map(lambda x: x.reshape(jax.lax.axis_size(config.axes), -1), tree)
    return jax.lax.all_to_all(by_device, config.axes, split_axis=0, concat_axis=0)


def _send_to_next(config: Config, tree: Any) -> Any:
    """Send each device's values to the next device of the ring."""
    n = jax.lax.axis_size(config.axes)
    return jax.lax.ppermute(tree, config.axes, [(i, (i + 1) % n) for i in range(n)])
