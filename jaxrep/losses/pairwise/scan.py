"""Reductions of the logits between two sets of rows, a block of rows at a time.

``forward`` folds each block of the logits ``x[i, j] = a[i] · b[j] + bias`` into the reductions along rows and along
columns; ``backward`` makes the same blocks again. What varies between losses is a ``Reduction``, a few small
functions. ``jaxrep.losses.pairwise.reduce`` joins the two into one differentiable function, on any mesh.
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
"""Rows of logits at a time by default: enough for matrix products at full speed, and few enough that a block is about
as large as the embeddings themselves."""

FLOOR = -1e30
"""The log-sum-exp of nothing: finite, so that a row that takes no part brings no NaN into the backward pass."""

Stats = tuple[Array, ...]


class Rows(NamedTuple):
    """Rows that meet the rows of another side. Two rows are alike if they agree in any of ``ids``."""

    x: Float[Array, "N D"]
    ids: tuple[Int[Array, " N"], ...] = ()
    present: Bool[Array, " N"] | None = None


def padded(side: Rows, count: int) -> Rows:
    """With ``count`` rows more that are absent: what is not led by the batch (a queue, a table) may have any length."""
    if count == 0:
        return side
    present = jnp.ones(len(side.x), bool) if side.present is None else side.present
    return jax.tree.map(lambda x: jnp.pad(x, [(0, count)] + [(0, 0)] * (x.ndim - 1)), side._replace(present=present))


@dataclasses.dataclass(frozen=True)
class Reduction:
    """A function of the logits that one row meets, computed piece by piece.

    ``piece(x, axis)`` are the statistics of a block, in which a pair that does not enter has the logit ``drop``;
    ``merge`` joins those of two disjoint sets of logits; ``value`` of the statistics of everything is the result, and
    ``slope(x, value)`` its derivative by a logit that enters.
    """

    drop: float
    piece: Callable[[Array, int], Stats]
    merge: Callable[[Stats, Stats], Stats]
    value: Callable[[Stats], Array]
    slope: Callable[[Array, Array], Array]


def _lse_piece(x: Array, axis: int) -> Stats:
    top = jnp.max(x, axis, initial=FLOOR)
    return top, jnp.sum(jnp.exp(x - jnp.expand_dims(top, axis)), axis)


def _lse_merge(one: Stats, other: Stats) -> Stats:
    top = jnp.maximum(one[0], other[0])
    return top, one[1] * jnp.exp(one[0] - top) + other[1] * jnp.exp(other[0] - top)


def _softplus(x: Array) -> Array:
    """log(1 + exp(x)), a quarter of the time of ``jax.nn.softplus``, which looks after infinities of both signs."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


def _sum_of(function: Callable[[Array], Array], slope: Callable[[Array], Array], drop: float) -> Reduction:
    return Reduction(
        drop=drop,
        piece=lambda x, axis: (jnp.sum(function(x), axis),),
        merge=lambda one, other: (one[0] + other[0],),
        value=lambda stats: stats[0],
        slope=lambda x, value: slope(x),
    )


LOG_SUM_EXP = Reduction(
    drop=-jnp.inf,
    piece=_lse_piece,
    merge=_lse_merge,
    value=lambda stats: stats[0] + jnp.log(jnp.maximum(stats[1], jnp.finfo(jnp.float32).tiny)),
    slope=lambda x, value: jnp.exp(x - value),
)
SUM_SOFTPLUS = _sum_of(_softplus, jax.nn.sigmoid, drop=-jnp.inf)
SUM = _sum_of(lambda x: x, jnp.ones_like, drop=0.0)


@dataclasses.dataclass(frozen=True)
class How:
    """What ``pairwise`` computes, all of it static.

    ``among``: every pair enters, or those that are alike, or those that are not. ``columns``: reduce along columns as
    well. ``axes``: the mesh axes over which rows lie, where this runs inside ``shard_map``.
    """

    reduction: Reduction
    among: Literal["all", "alike", "unlike"]
    columns: bool
    block_size: int
    axes: tuple[str, ...] = ()


_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _logits(a: Rows, b: Rows, bias: Array | None) -> Array:
    x = _product("id,jd->ij", a.x, b.x)
    return x if bias is None else x + bias


def _entering(how: How, a: Rows, b: Rows) -> tuple[Array | None, Array | None]:
    """Bool [A,B]: the pairs that enter the reductions along rows, and along columns; None where all do."""
    among = None
    if how.among != "all":
        alike = functools.reduce(operator.or_, (p[:, None] == q[None, :] for p, q in zip(a.ids, b.ids, strict=True)))
        among = alike if how.among == "alike" else ~alike
    marks = (None if b.present is None else b.present[None, :], None if a.present is None else a.present[:, None])
    rows, columns = (among if mark is None else mark if among is None else among & mark for mark in marks)
    return rows, columns


def pieces(how: How, x: Array, a: Rows, b: Rows) -> tuple[Stats, Stats | None]:
    """Statistics of one block of logits ``x`` [A,B]: [A] of its rows a, and [B] of its columns b."""
    rows, columns = (x if k is None else jnp.where(k, x, how.reduction.drop) for k in _entering(how, a, b))
    return how.reduction.piece(rows, 1), how.reduction.piece(columns, 0) if how.columns else None


Pull = tuple[Array, Array] | None
"""Values [N] of the rows of a side, and the loss's derivatives by them."""


def slopes(how: How, x: Array, a: Rows, b: Rows, rows: Pull, columns: Pull) -> Array:
    """The loss's derivatives [A,B] by one block of logits ``x`` [A,B], by way of its rows a and of its columns b."""
    parts = []
    for axis, pull, enters in zip((1, 0), (rows, columns), _entering(how, a, b), strict=True):
        if pull is not None:
            values, by_values = (jnp.expand_dims(p, axis) for p in pull)
            part = by_values * how.reduction.slope(x, values)
            parts.append(part if enters is None else jnp.where(enters, part, 0.0))
    return functools.reduce(operator.add, parts)


def own(how: How, tree: Any) -> Any:
    """Constants as values of which each device has its own, as the carry of a scan inside ``shard_map`` must be."""
    return jax.tree.map(lambda x: jax.lax.pcast(x, how.axes, to="varying"), tree) if how.axes else tree


def nothing(how: How, count: int) -> Stats:
    """Statistics [count] of no logits."""
    return own(how, how.reduction.piece(jnp.zeros((0, count)), 0))


def _over_blocks(step: Callable, carry: Any, rows: Any, size: int) -> tuple[Any, Any]:
    """``lax.scan`` of ``step`` over blocks of ``size`` rows, then over a shorter last one; outputs are joined."""
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


def forward(how: How, a: Rows, b: Rows, bias: Array | None) -> tuple[Stats, Stats | None]:
    """Statistics of the rows of a [A,D], each [A], and of the rows of b [B,D], each [B] (None without ``columns``)."""

    def step(columns, block):
        rows, more = pieces(how, _logits(block, b, bias), block, b)
        return (None if more is None else how.reduction.merge(columns, more)), rows

    start = nothing(how, len(b.x)) if how.columns else None
    columns, rows = _over_blocks(step, start, a, how.block_size)
    return rows, columns


def backward(how: How, a: Rows, b: Rows, bias: Array | None, rows: Pull, columns: Pull) -> tuple[Array, Array, Any]:
    """Derivatives by ``a.x`` [A,D], ``b.x`` [B,D] and the bias (None without one), from what each side passes back."""

    def step(carry, inputs):
        block, pull = inputs
        g = slopes(how, _logits(block, b, bias), block, b, pull, columns)
        d_b = carry[0] + _product("ij,id->jd", g, block.x)
        return (d_b, None if bias is None else carry[1] + jnp.sum(g)), _product("ij,jd->id", g, b.x)

    start = own(how, jax.tree.map(lambda x: jnp.zeros(x.shape), (b.x, bias)))
    (d_b, d_bias), d_a = _over_blocks(step, start, (a, rows), how.block_size)
    return d_a, d_b, d_bias
