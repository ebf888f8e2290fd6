"""Reductions over all pairs of two sets of rows: exact, differentiable, in linear memory, on any mesh.

Of the B x B logits of a contrastive loss only reductions along rows and along columns are wanted. ``pairwise`` makes
the logits a block of rows at a time and makes them again in the backward pass: four matrix products in place of
three, and never a B x B array. The caller writes the global loss. Where an ambient mesh (``jax.set_mesh``) lays rows
over ``data`` and ``fsdp``, each device does the work of its own rows of ``a``; the custom derivative is outside of
``shard_map``, so that the derivatives by what all devices share are exact.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise import collectives, pallas, scan
from jaxrep.losses.pairwise.scan import How, Reduction, Rows
from jaxrep.mesh import ROWS, current_mesh

GATHER_BYTES = 2**28
"""Up to this size (256 MiB) the rows of b are gathered on every device, beyond it they go around a ring."""


def pairwise_reduce(
    reduction: Reduction,
    a: Rows,
    b: Rows,
    bias: Float[Array, ""] | None = None,
    *,
    among: Literal["all", "alike", "unlike"] = "all",
    columns: bool = True,
    block_size: int | None = None,
) -> tuple[Float[Array, " N"], ...]:
    """The reduction of the logits ``a.x @ b.x.T + bias`` along rows, and in the same pass along columns.

    A row of a meets the rows of b that are present, a row of b those of a.

    Args:
        among: every pair enters, or those that are alike, or those that are not.
        columns: without it only the reduction along rows is computed and returned.
        block_size: rows of logits that exist at a time on a device; None: ``blocks.BLOCK_SIZE``. Where
            ``kernel.pays`` no rows of logits exist and it is not read.
    """
    how = How(reduction, among, columns, block_size or scan.BLOCK_SIZE)
    devices = row_devices()
    if devices == 1:
        return _pairwise(how, None, a, b, bias)
    b = scan.padded(b, -len(b.x) % devices)
    how = dataclasses.replace(how, axes=ROWS[0])
    return _pairwise(how, "gather" if b.x.nbytes <= GATHER_BYTES else "ring", a, b, bias)


def row_devices() -> int:
    """Over how many devices the ambient mesh lays the rows of a batch."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape[ROWS[0][0]] * mesh.shape[ROWS[0][1]]


_WAYS = {
    None: (pallas.forward, pallas.backward),
    "gather": (collectives.gather_forward, collectives.gather_backward),
    "ring": (collectives.ring_forward, collectives.ring_backward),
}


def _on_mesh(way: str | None, function: Any, inputs: tuple[P, ...], outputs: Any) -> Any:
    return function if way is None else jax.shard_map(function, in_specs=inputs, out_specs=outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pairwise(how: How, way: str | None, a: Rows, b: Rows, bias: Array | None) -> tuple[Array, ...]:
    return _forward(how, way, a, b, bias)[0]


def _forward(how, way, a, b, bias):
    def values(a, b, bias):
        rows, columns = _WAYS[way][0](how, a, b, bias)
        return tuple(how.reduction.value(stats) for stats in (rows, columns) if stats is not None)

    out = _on_mesh(way, values, (ROWS, ROWS, P()), ROWS)(a, b, bias)
    return out, (a, b, bias, out)


def _backward(how, way, residuals, slopes):
    a, b, bias, values = residuals

    def derivatives(a, b, bias, pulls):
        return _WAYS[way][1](how, a, b, bias, pulls[0], pulls[1] if how.columns else None)

    pulls = tuple(zip(values, slopes, strict=True))
    d_a, d_b, d_bias = _on_mesh(way, derivatives, (ROWS, ROWS, P(), ROWS), (ROWS, ROWS, P()))(a, b, bias, pulls)
    return Rows(d_a, (None,) * len(a.ids), None), Rows(d_b, (None,) * len(b.ids), None), d_bias  # pyright: ignore


_pairwise.defvjp(_forward, _backward)
