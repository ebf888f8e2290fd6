"""Compute the pairwise reductions in one GPU kernel: logits never leave the chip.

``forward`` and ``backward`` have the signatures of ``jaxrep.losses.pairwise.scan``. By ``use_kernel``, a fixed rule of
platform and shapes, they run Pallas kernels (through Triton) or the scan. One program of a kernel holds a tile of rows
and visits all tiles of the other side in order (as Dao et al., 2022, arXiv:2205.14135, do for attention). Results for
rows of a and for rows of b are two passes of one kernel with the sides exchanged, so that there are no atomic
additions and results are the same bits every time; the price is six matrix products, where the scan has four.

Products have the precision of float32: each number is the sum of three bfloat16 parts, and of the nine products of
parts the three below float32's rounding are left out. Tensor cores compute the six others; nothing is rounded to TF32.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from jaxrep.batch import Array
from jaxrep.losses.pairwise import scan
from jaxrep.losses.pairwise.scan import Bias, Config, Cotangents, Gradients, Rows, Stats
from jaxrep.mesh import platform

TILE = 64
"""Rows of either side in a tile of logits."""

MIN_ROWS = 2**14
"""Fewest rows of either side for the kernel: 256 programs, about two per multiprocessor of a large GPU. With fewer rows
the scan's blocks of 512 rows of logits, below 32 MiB, stay in the cache and cost little."""

MAX_WIDTH = 64
"""Widest rows for the kernel: for wider ones the backward pass does not fit into the registers of a multiprocessor.
The rule comes from arithmetic, not from a measurement: see docs/performance.md, "The loss on a GPU"."""

Tile = tuple[Rows, Cotangents]
Parts = tuple[Array, ...]
_PRODUCTS = ((2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0))


def use_kernel(a: Rows, b: Rows) -> bool:
    """Return whether the kernel runs: a fixed rule, so that a resumed run repeats the same numbers."""
    return platform() == "gpu" and min(len(a.x), len(b.x)) >= MIN_ROWS and a.x.shape[1] <= MAX_WIDTH


def forward(config: Config, a: Rows, b: Rows, bias: Bias) -> tuple[Stats, Stats | None]:
    """Return what ``scan.forward`` returns."""
    if not use_kernel(a, b):
        return scan.forward(config, a, b, bias)
    return _statistics(config, a, b, bias), _statistics(config, b, a, bias) if config.columns else None


def backward(config: Config, a: Rows, b: Rows, bias: Bias, rows: Cotangents, columns: Cotangents) -> Gradients:
    """Return what ``scan.backward`` returns."""
    if not use_kernel(a, b):
        return scan.backward(config, a, b, bias, rows, columns)
    d_a, sums = _row_gradients(config, a, b, bias, rows, columns)
    d_b, _ = _row_gradients(config, b, a, bias, columns, rows)
    return d_a, d_b, None if bias is None else jnp.sum(sums)


def _statistics(config: Config, a: Rows, b: Rows, bias: Bias) -> Stats:
    """Return the statistics of the rows of a."""
    config = dataclasses.replace(config, columns=False)

    def program(tile: Tile, tile_of_b: Callable[[Any], Tile], bias: Bias, steps: int) -> Stats:
        parts = _split(tile[0].x)

        def statistics(j) -> Stats:
            b, _ = tile_of_b(j)
            return scan.block_statistics(config, _logits(parts, _split(b.x), bias), tile[0], b)[0]

        return jax.lax.fori_loop(1, steps, lambda j, stats: config.reduction.merge(stats, statistics(j)), statistics(0))

    count = len(config.reduction.statistics(jnp.zeros((0, 1)), 0))
    return _run_tiles(program, (a, None), (b, None), bias, [(TILE,)] * count)


def _row_gradients(config: Config, a: Rows, b: Rows, bias: Bias, rows: Cotangents, columns: Cotangents) -> Stats:
    """Return the derivatives by ``a.x``, and for each row the sum of the derivatives by its logits."""

    def program(tile: Tile, tile_of_b: Callable[[Any], Tile], bias: Bias, steps: int) -> tuple[Array, Array]:
        a, rows = tile
        parts = _split(a.x)

        def step(j, sums):
            b, columns = tile_of_b(j)
            parts_of_b = _split(b.x)
            g = scan.logit_gradients(config, _logits(parts, parts_of_b, bias), a, b, rows, columns)
            return sums[0] + _product(_split(g), parts_of_b, 0), sums[1] + jnp.sum(g, 1)

        return jax.lax.fori_loop(0, steps, step, (jnp.zeros(a.x.shape), jnp.zeros(TILE)))

    d_a, sums = _run_tiles(program, (a, rows), (b, columns), bias, [(TILE, _width(a)), (TILE,)])
    return d_a[:, : a.x.shape[1]], sums


def _run_tiles(program: Callable, a: Tile, b: Tile, bias: Bias, shapes: list[tuple[int, ...]]) -> Any:
    """Run ``program(tile, tile_of_b, bias, steps)`` for each tile of a; ``tile_of_b(j)`` is one of the ``steps`` of b.

    ``shapes`` are those of the program's results: float32, with the rows of the tile as the first axis.
    """
    from jax.experimental.pallas import triton  # slow to import, and only GPUs need it

    count = len(a[0].x)
    varying = jax.typeof(a[0].x).manual_axis_type
    a, b = _pad_to_tiles(a), _pad_to_tiles(b)
    tiles, steps = len(a[0].x) // TILE, len(b[0].x) // TILE

    def kernel(a, b, bias, *results):
        def tile_of_b(j):
            return jax.tree.map(lambda ref: ref[pl.ds(j * TILE, TILE)], b)

        a = jax.tree.map(lambda ref: ref[...], a)
        for ref, result in zip(results, program(a, tile_of_b, None if bias is None else bias[0], steps), strict=True):
            ref[...] = result

    def tile_spec(x):
        return pl.BlockSpec((TILE, *x.shape[1:]), lambda i: (i, *(0,) * (x.ndim - 1)))

    out = [jax.ShapeDtypeStruct((tiles * TILE, *s[1:]), jnp.float32, manual_axis_type=varying) for s in shapes]
    results = pl.pallas_call(
        kernel,
        out,
        grid=(tiles,),
        in_specs=[jax.tree.map(tile_spec, a), *jax.tree.map(lambda x: pl.BlockSpec(), (b, bias))],
        out_specs=[tile_spec(x) for x in out],
        compiler_params=triton.CompilerParams(num_warps=8, num_stages=2),
        interpret=platform() != "gpu",
    )(a, b, None if bias is None else bias.reshape(1))
    return tuple(x[:count] for x in results)


def _width(rows: Rows) -> int:
    """Return the width of rows in the kernel: Triton needs powers of two, and tensor cores 16 at least."""
    return pl.next_power_of_2(max(rows.x.shape[1], 16))


def _pad_to_tiles(tile: Tile) -> Tile:
    """Pad to whole tiles with absent rows and with columns of zeros."""
    rows, cotangents = tile
    missing = -len(rows.x) % TILE
    rows = scan.pad_rows(rows, missing)
    rows = rows._replace(x=jnp.pad(rows.x, ((0, 0), (0, _width(rows) - rows.x.shape[1]))))
    return rows, jax.tree.map(lambda x: jnp.pad(x, (0, missing)), cotangents)


def _logits(a: Parts, b: Parts, bias: Bias) -> Array:
    x = _product(a, b, 1)
    return x if bias is None else x + bias


def _split(x: Array) -> Parts:
    """Split x into three bfloat16 numbers whose sum is x, each the nearest to the remainder.

    Rounds by arithmetic on bits: a compiler may drop a conversion to bfloat16 and back.
    """
    parts = []
    for _ in range(3):
        bits = jax.lax.bitcast_convert_type(x, jnp.int32)
        part = jax.lax.bitcast_convert_type((bits + 0x8000) & -0x10000, jnp.float32)
        parts.append(part.astype(jnp.bfloat16))
        x = x - part
    return tuple(parts)


def _product(x: Parts, y: Parts, axis: int) -> Array:
    """Return the matrix product over the last axis of x and this axis of y, adding the smallest products first."""
    dimensions = (((1,), (axis,)), ((), ()))
    dot = functools.partial(jax.lax.dot_general, dimension_numbers=dimensions, preferred_element_type=jnp.float32)
    return functools.reduce(operator.add, (dot(x[i], y[j]) for i, j in _PRODUCTS))
