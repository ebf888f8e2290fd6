"""Reduce over all pairs of two sets of rows: exact, differentiable, in linear memory, on any mesh.

A contrastive loss needs only reductions of its B x B logits along rows and along columns. ``pairwise_reduce`` computes
the logits one block of rows at a time and again in the backward pass: four matrix products in place of three, and
never a B x B array. The caller writes the global loss. If an ambient mesh (``jax.set_mesh``) shards rows over ``data``
and ``fsdp``, each device computes its shard of ``a``; the custom derivative is outside of ``shard_map``, so that the
derivatives by replicated values are exact.
"""

import dataclasses
import functools
from typing import Any

import jax
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise import collectives, pallas, scan
from jaxrep.losses.pairwise.scan import Bias, Config, Included, Reduction, Rows
from jaxrep.mesh import ROWS, current_mesh

GATHER_BYTES = 2**28
"""Largest size (256 MiB) at which the rows of b are gathered on every device; larger ones go around a ring."""


def pairwise_reduce(
    reduction: Reduction,
    a: Rows,
    b: Rows,
    bias: Float[Array, ""] | None = None,
    *,
    pairs: Included = "all",
    columns: bool = True,
    block_size: int | None = None,
) -> tuple[Float[Array, " N"], ...]:
    """Reduce the logits ``a.x @ b.x.T + bias`` along rows, and in the same pass along columns.

    A row of a meets the rows of b that are present, and a row of b those of a.

    Args:
        pairs: whether all pairs are included, those that are duplicates, or those that are not.
        columns: whether to compute and return the reduction along columns too.
        block_size: rows of logits in memory per device; None: ``scan.BLOCK_SIZE``. The kernel of ``pallas.py`` has no
            rows of logits and ignores it.
    """
    config = Config(reduction, pairs, columns, block_size or scan.BLOCK_SIZE)
    devices = num_row_devices()
    if devices == 1:
        return _pairwise(config, None, a, b, bias)
    b = scan.pad_rows(b, -len(b.x) % devices)
    config = dataclasses.replace(config, axes=ROWS[0])
    return _pairwise(config, "gather" if b.x.nbytes <= GATHER_BYTES else "ring", a, b, bias)


def num_row_devices() -> int:
    """Return the number of devices over which the ambient mesh shards the rows of a batch."""
    mesh = current_mesh()
    return 1 if mesh is None else mesh.shape[ROWS[0][0]] * mesh.shape[ROWS[0][1]]


_STRATEGIES = {
    None: (pallas.forward, pallas.backward),
    "gather": (collectives.gather_forward, collectives.gather_backward),
    "ring": (collectives.ring_forward, collectives.ring_backward),
}


def _on_mesh(strategy: str | None, function: Any, inputs: tuple[jax.P, ...], outputs: Any) -> Any:
    return function if strategy is None else jax.shard_map(function, in_specs=inputs, out_specs=outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pairwise(config: Config, strategy: str | None, a: Rows, b: Rows, bias: Bias) -> tuple[Array, ...]:
    return _forward(config, strategy, a, b, bias)[0]


def _forward(config, strategy, a, b, bias):
    def values(a, b, bias):
        rows, columns = _STRATEGIES[strategy][0](config, a, b, bias)
        return tuple(config.reduction.value(stats) for stats in (rows, columns) if stats is not None)

    out = _on_mesh(strategy, values, (ROWS, ROWS, jax.P()), ROWS)(a, b, bias)
    return out, (a, b, bias, out)


def _backward(config, strategy, residuals, by_values):
    a, b, bias, values = residuals

    def derivatives(a, b, bias, cotangents):
        columns = cotangents[1] if config.columns else None
        return _STRATEGIES[strategy][1](config, a, b, bias, cotangents[0], columns)

    cotangents = tuple(zip(values, by_values, strict=True))
    specs = (ROWS, ROWS, jax.P(), ROWS)
    d_a, d_b, d_bias = _on_mesh(strategy, derivatives, specs, specs[:3])(a, b, bias, cotangents)
    return Rows(d_a, (None,) * len(a.ids), None), Rows(d_b, (None,) * len(b.ids), None), d_bias  # pyright: ignore


_pairwise.defvjp(_forward, _backward)
