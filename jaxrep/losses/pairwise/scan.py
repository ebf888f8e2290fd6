"""Reduce the logits between two sets of rows, one block of rows at a time.

``forward`` folds each block of the logits ``x[i, j] = a[i] · b[j] + bias`` into the reductions along rows and along
columns; ``backward`` computes the same blocks again. Losses differ in their ``Reduction``, a few small functions.
``jaxrep.losses.pairwise.reduce`` makes one differentiable function of the two, on any mesh.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxrep.batch import Array

BLOCK_SIZE = 512
"""Default number of rows of logits per block: large enough for matrix products at full speed, small enough that a block
is about as large as the embeddings themselves."""

LOG_ZERO = -1e30
"""The log-sum-exp of an empty set: finite, so that a row without pairs has no NaN in its gradient."""

Stats = tuple[Array, ...]
Bias = Array | None
Gradients = tuple[Array, Array, Array | None]
"""Derivatives by the rows of a, by the rows of b, and by the bias."""


class Rows(NamedTuple):
    """Hold rows that meet the rows of the other side. Two rows are duplicates if they agree in any of ``ids``."""

    x: Float[Array, "N D"]
    ids: tuple[Int[Array, " N"], ...] = ()
    present: Bool[Array, " N"] | None = None


def pad_rows(rows: Rows, count: int) -> Rows:
    """Append ``count`` absent rows: a queue or a table may have any length, the devices need equal shares."""
    if count == 0:
        return rows
    present = jnp.ones(len(rows.x), bool) if rows.present is None else rows.present
    return jax.tree.map(lambda x: jnp.pad(x, [(0, count)] + [(0, 0)] * (x.ndim - 1)), rows._replace(present=present))


@dataclasses.dataclass(frozen=True)
class Reduction:
    """Declare a function of the logits of one row that can be computed block by block.

    ``statistics(x, axis)`` are those of a block, in which an excluded pair has the logit ``excluded``; ``merge`` joins
    the statistics of two disjoint sets of logits; ``value`` is the result, from the statistics of all logits, and
    ``derivative(x, value)`` its derivative by an included logit.
    """

    excluded: float
    statistics: Callable[[Array, int], Stats]
    merge: Callable[[Stats, Stats], Stats]
    value: Callable[[Stats], Array]
    derivative: Callable[[Array, Array], Array]


def _lse_statistics(x: Array, axis: int) -> Stats:
    top = jnp.max(x, axis, initial=LOG_ZERO)
    return top, jnp.sum(jnp.exp(x - jnp.expand_dims(top, axis)), axis)


def _lse_merge(first: Stats, second: Stats) -> Stats:
    top = jnp.maximum(first[0], second[0])
    return top, first[1] * jnp.exp(first[0] - top) + second[1] * jnp.exp(second[0] - top)


def _softplus(x: Array) -> Array:
    """Compute log(1 + exp(x)) in a quarter of the time of ``jax.nn.softplus``, which handles both infinities."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _sum_of(function: Callable[[Array], Array], derivative: Callable[[Array], Array], excluded: float) -> Reduction:
    return Reduction(
        excluded=excluded,
        statistics=lambda x, axis: (jnp.sum(function(x), axis),),
        merge=lambda first, second: (first[0] + second[0],),
        value=lambda stats: stats[0],
        derivative=lambda x, value: derivative(x),
    )


LOG_SUM_EXP = Reduction(
    excluded=-jnp.inf,
    statistics=_lse_statistics,
    merge=_lse_merge,
    value=lambda stats: stats[0] + jnp.log(jnp.maximum(stats[1], jnp.finfo(jnp.float32).tiny)),
    derivative=lambda x, value: jnp.exp(x - value),
)
SUM_SOFTPLUS = _sum_of(_softplus, jax.nn.sigmoid, excluded=-jnp.inf)
SUM = _sum_of(lambda x: x, jnp.ones_like, excluded=0.0)
MAX = Reduction(
    excluded=LOG_ZERO,
    statistics=lambda x, axis: (jnp.max(x, axis, initial=LOG_ZERO),),
    merge=lambda first, second: (jnp.maximum(first[0], second[0]),),
    value=lambda stats: stats[0],
    derivative=lambda x, value: (x == value).astype(jnp.float32),
)
"""The largest logit; its derivative goes to all logits that are as large."""

Included = Literal["all", "duplicates", "non_duplicates", "other_duplicates"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Hold the static arguments of a pairwise reduction.

    ``pairs``: which pairs are included; for ``other_duplicates``, rows that are equal in any ids but the first, which
    tell a row from all others. ``columns``: whether to reduce along columns as well. ``axes``: the mesh axes that shard
    the rows, inside ``shard_map``.
    """

    reduction: Reduction
    pairs: Included
    columns: bool
    block_size: int
    axes: tuple[str, ...] = ()


_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _logits(a: Rows, b: Rows, bias: Bias) -> Array:
    x = _product("id,jd->ij", a.x, b.x)
    return x if bias is None else x + bias


def duplicates(a: tuple[Array, ...], b: tuple[Array, ...]) -> Bool[Array, "A B"]:
    """Return which pairs of rows are equal in any of their ids."""
    return functools.reduce(operator.or_, (p[:, None] == q[None, :] for p, q in zip(a, b, strict=True)))


def _included(config: Config, a: Rows, b: Rows) -> tuple[Array | None, Array | None]:
    """Return the pairs, bool [A,B], of the reductions along rows and along columns; None if all are included."""
    chosen = None
    if config.pairs == "other_duplicates":
        chosen = duplicates(a.ids[1:], b.ids[1:]) & ~duplicates(a.ids[:1], b.ids[:1])
    elif config.pairs != "all":
        same = duplicates(a.ids, b.ids)
        chosen = same if config.pairs == "duplicates" else ~same
    present = (None if b.present is None else b.present[None, :], None if a.present is None else a.present[:, None])
    rows, columns = (chosen if p is None else p if chosen is None else chosen & p for p in present)
    return rows, columns


def block_statistics(config: Config, x: Array, a: Rows, b: Rows) -> tuple[Stats, Stats | None]:
    """Return the statistics of one block of logits ``x`` [A,B]: [A] of its rows a, and [B] of its columns b."""
    reduction = config.reduction
    rows, columns = (x if k is None else jnp.where(k, x, reduction.excluded) for k in _included(config, a, b))
    return reduction.statistics(rows, 1), reduction.statistics(columns, 0) if config.columns else None


Cotangents = tuple[Array, Array] | None
"""Values [N] of the reduction for the rows of one side, and the loss's derivatives by them."""


def logit_gradients(config: Config, x: Array, a: Rows, b: Rows, rows: Cotangents, columns: Cotangents) -> Array:
    """Return the loss's derivatives [A,B] by one block of logits ``x`` [A,B], through its rows a and its columns b."""
    parts = []
    for axis, cotangents, included in zip((1, 0), (rows, columns), _included(config, a, b), strict=True):
        if cotangents is not None:
            values, by_values = (jnp.expand_dims(c, axis) for c in cotangents)
            part = by_values * config.reduction.derivative(x, values)
            parts.append(part if included is None else jnp.where(included, part, 0.0))
    return functools.reduce(operator.add, parts)


def device_varying(config: Config, tree: Any) -> Any:
    """Mark constants as different per device, as ``shard_map`` requires of the carry of a scan."""
    return jax.tree.map(lambda x: jax.lax.pcast(x, config.axes, to="varying"), tree) if config.axes else tree


def empty_statistics(config: Config, count: int) -> Stats:
    """Return the statistics [count] of no logits."""
    return device_varying(config, config.reduction.statistics(jnp.zeros((0, count)), 0))


def _scan_blocks(step: Callable, carry: Any, rows: Any, size: int) -> tuple[Any, Any]:
    """Run ``lax.scan`` of ``step`` over blocks of ``size`` rows, then a shorter last block; concatenate the outputs."""
    count = len(jax.tree.leaves(rows)[0])
    size = min(size, count)
    whole = count // size * size
    blocks = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), rows)
    carry, out = jax.lax.scan(step, carry, blocks)
    out = jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), out)
    if whole < count:
        carry, last = step(carry, jax.tree.map(lambda x: x[whole:], rows))
        out = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, last)
    return carry, out


def forward(config: Config, a: Rows, b: Rows, bias: Bias) -> tuple[Stats, Stats | None]:
    """Return the statistics of the rows of a, each [A], and of b, each [B] (None without ``columns``)."""

    def step(columns, block):
        rows, new = block_statistics(config, _logits(block, b, bias), block, b)
        return (None if new is None else config.reduction.merge(columns, new)), rows

    start = empty_statistics(config, len(b.x)) if config.columns else None
    columns, rows = _scan_blocks(step, start, a, config.block_size)
    return rows, columns


def backward(config: Config, a: Rows, b: Rows, bias: Bias, rows: Cotangents, columns: Cotangents) -> Gradients:
    """Return the derivatives by ``a.x`` [A,D], ``b.x`` [B,D] and the bias (None without one)."""

    def step(carry, inputs):
        block, cotangents = inputs
        g = logit_gradients(config, _logits(block, b, bias), block, b, cotangents, columns)
        d_b = carry[0] + _product("ij,id->jd", g, block.x)
        return (d_b, None if bias is None else carry[1] + jnp.sum(g)), _product("ij,jd->id", g, b.x)

    start = device_varying(config, jax.tree.map(lambda x: jnp.zeros(x.shape), (b.x, bias)))
    (d_b, d_bias), d_a = _scan_blocks(step, start, (a, rows), config.block_size)
    return d_a, d_b, d_bias
