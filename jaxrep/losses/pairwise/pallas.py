"""The block core as one GPU kernel: logits are made, reduced and forgotten without leaving the chip.

``forward`` and ``backward`` are those of ``jaxrep.losses.pairwise.scan`` in the same signature; by ``pays``, a fixed rule of
platform and shapes, they run Pallas kernels (through Triton) or the scan. A program of a kernel holds a tile of rows
and walks over all tiles of the other side in order (as Dao et al., 2022, arXiv:2205.14135, do for attention). What
belongs to rows of a and what belongs to rows of b are two passes of one kernel with the sides exchanged, so that
nothing is added atomically and a result is the same bits every time; the price is six matrix products where the scan
makes four.

Products are of float32, to its precision: each number is the sum of three bfloat16 parts, and of the nine products of
parts the three below float32's rounding are left out. Tensor cores do the six others; nothing is rounded to TF32.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from jaxrep.batch import Array
from jaxrep.losses.pairwise import scan
from jaxrep.losses.pairwise.scan import How, Pull, Rows, Stats
from jaxrep.mesh import platform

TILE = 64
"""Rows of either side in a tile of logits."""

MIN_ROWS = 2**14
"""Of each side, for the kernel: 256 programs, about two a multiprocessor of a large GPU; and with fewer rows the scan's
blocks of 512 rows of logits, then below 32 MiB, stay in the cache and cost little."""

MAX_WIDTH = 64
"""Of the rows, for the kernel: for wider ones the backward pass does not fit into the registers of a multiprocessor.
The rule is made of arithmetic, not of a measurement: see docs/performance.md, "The loss on a GPU"."""

Tile = tuple[Rows, Pull]
Parts = tuple[Array, ...]
_ORDER = ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0))


def pays(a: Rows, b: Rows) -> bool:
    """Whether the kernel runs: a fixed rule, so that a run that is resumed repeats the same numbers."""
    return platform() == "gpu" and min(len(a.x), len(b.x)) >= MIN_ROWS and a.x.shape[1] <= MAX_WIDTH


def forward(how: How, a: Rows, b: Rows, bias: Array | None) -> tuple[Stats, Stats | None]:
    """As ``blocks.forward``."""
    if not pays(a, b):
        return scan.forward(how, a, b, bias)
    return _statistics(how, a, b, bias), _statistics(how, b, a, bias) if how.columns else None


def backward(how: How, a: Rows, b: Rows, bias: Array | None, rows: Pull, columns: Pull) -> tuple[Array, Array, Any]:
    """As ``blocks.backward``."""
    if not pays(a, b):
        return scan.backward(how, a, b, bias, rows, columns)
    d_a, sums = _derivatives(how, a, b, bias, rows, columns)
    d_b, _ = _derivatives(how, b, a, bias, columns, rows)
    return d_a, d_b, None if bias is None else jnp.sum(sums)


def _statistics(how: How, a: Rows, b: Rows, bias: Array | None) -> Stats:
    """Statistics of the rows of a."""
    how = dataclasses.replace(how, columns=False)

    def program(own: Tile, other: Callable[[Any], Tile], bias: Array | None, steps: int) -> Stats:
        parts = _parts(own[0].x)

        def piece(j) -> Stats:
            b, _ = other(j)
            return scan.pieces(how, _logits(parts, _parts(b.x), bias), own[0], b)[0]

        return jax.lax.fori_loop(1, steps, lambda j, stats: how.reduction.merge(stats, piece(j)), piece(0))

    count = len(how.reduction.piece(jnp.zeros((0, 1)), 0))
    return _run(program, (a, None), (b, None), bias, [(TILE,)] * count)


def _derivatives(how: How, a: Rows, b: Rows, bias: Array | None, rows: Pull, columns: Pull) -> tuple[Array, Array]:
    """Derivatives by ``a.x``, and of each row the sum of the derivatives by its logits."""

    def program(own: Tile, other: Callable[[Any], Tile], bias: Array | None, steps: int) -> tuple[Array, Array]:
        a, rows = own
        parts = _parts(a.x)

        def step(j, sums):
            b, columns = other(j)
            others = _parts(b.x)
            g = scan.slopes(how, _logits(parts, others, bias), a, b, rows, columns)
            return sums[0] + _product(_parts(g), others, 0), sums[1] + jnp.sum(g, 1)

        return jax.lax.fori_loop(0, steps, step, (jnp.zeros(a.x.shape), jnp.zeros(TILE)))

    d_a, sums = _run(program, (a, rows), (b, columns), bias, [(TILE, _width(a)), (TILE,)])
    return d_a[:, : a.x.shape[1]], sums


def _run(program: Callable, own: Tile, others: Tile, bias: Array | None, shapes: list[tuple[int, ...]]) -> Any:
    """``program(tile, other, bias, steps)`` for each tile of ``own``; ``other(j)`` is one of the ``steps`` of others.

    ``shapes`` are those of its results, float32 and led by the rows of the tile.
    """
    count = len(own[0].x)
    lies = jax.typeof(own[0].x).manual_axis_type
    own, others = _whole(own), _whole(others)
    tiles, steps = len(own[0].x) // TILE, len(others[0].x) // TILE

    def kernel(own, others, bias, *results):
        def other(j):
            return jax.tree.map(lambda ref: ref[pl.ds(j * TILE, TILE)], others)

        own = jax.tree.map(lambda ref: ref[...], own)
        for ref, result in zip(results, program(own, other, None if bias is None else bias[0], steps), strict=True):
            ref[...] = result

    def tile(x):
        return pl.BlockSpec((TILE, *x.shape[1:]), lambda i: (i, *(0,) * (x.ndim - 1)))

    out = [jax.ShapeDtypeStruct((tiles * TILE, *s[1:]), jnp.float32, manual_axis_type=lies) for s in shapes]
    results = pl.pallas_call(
        kernel,
        out,
        grid=(tiles,),
        in_specs=[jax.tree.map(tile, own), *jax.tree.map(lambda x: pl.BlockSpec(), (others, bias))],
        out_specs=[tile(x) for x in out],
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
        interpret=platform() != "gpu",
    )(own, others, None if bias is None else bias.reshape(1))
    return tuple(x[:count] for x in results)


def _width(side: Rows) -> int:
    """That of rows in the kernel: Triton takes powers of two, and tensor cores 16 at least."""
    return pl.next_power_of_2(max(side.x.shape[1], 16))


def _whole(rows: Tile) -> Tile:
    """Filled up to whole tiles, by rows that are absent and by columns of zeros."""
    side, pull = rows
    more = -len(side.x) % TILE
    side = scan.padded(side, more)
    side = side._replace(x=jnp.pad(side.x, ((0, 0), (0, _width(side) - side.x.shape[1]))))
    return side, jax.tree.map(lambda x: jnp.pad(x, (0, more)), pull)


def _logits(a: Parts, b: Parts, bias: Array | None) -> Array:
    x = _product(a, b, 1)
    return x if bias is None else x + bias


def _parts(x: Array) -> Parts:
    """Three bfloat16 numbers whose sum is x, each the nearest to what is left.

    Rounded by arithmetic on bits: a compiler may take a conversion to bfloat16 and back for nothing.
    """
    parts = []
    for _ in range(3):
        bits = jax.lax.bitcast_convert_type(x, jnp.int32)
        part = jax.lax.bitcast_convert_type((bits + 0x8000) & -0x10000, jnp.float32)
        parts.append(part.astype(jnp.bfloat16))
        x = x - part
    return tuple(parts)


def _product(x: Parts, y: Parts, axis: int) -> Array:
    """The matrix product over the last axis of x and this axis of y, the smallest products first."""
    dot = functools.partial(
        jax.lax.dot_general,
        dimension_numbers=(((1,), (axis,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
    return functools.reduce(operator.add, (dot(x[i], y[j]) for i, j in _ORDER))
