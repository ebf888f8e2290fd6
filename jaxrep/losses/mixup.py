"""Mixup of embeddings on the sphere, as hard negatives and as pairs with soft targets (Oh et al. 2023, Geodesic
Multi-Modal Mixup for Robust Fine-Tuning, arXiv:2203.03897; the forms are those of the released code).

Both losses are exact with memory linear in the batch, on any mesh.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import LOG_SUM_EXP

Mixed = Literal["a", "b", "both"]
NEAR = 1e-3
"""Sine of an angle below which an arc is taken for a line: it differs by its square, and arccos has a derivative."""


def geodesic(a: Float[Array, "B D"], b: Float[Array, "B D"], share: Float[Array, ""] | float) -> Float[Array, "B D"]:
    """Unit rows on the arc between unit rows: a where ``share`` is 1, b where it is 0."""
    cosine = jnp.sum(a * b, axis=1, keepdims=True)
    near = 1 - cosine**2 < NEAR**2
    angle = jnp.arccos(jnp.where(near, 0.0, cosine))
    parts = [jnp.where(near, s, jnp.sin(s * angle) / jnp.sin(angle)) for s in (share, 1 - share)]
    return parts[0] * a + parts[1] * b


def mixed_negatives(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    scale: Float[Array, ""] | float,
    share: Float[Array, ""] | float,
    *,
    block_size: int | None = None,
) -> Float[Array, ""]:
    """m2-Mix: row i of a finds row i of b among the mixed pairs of the others, and the reverse; the sum of both.

    Args:
        a: unit rows, one side of B pairs.
        b: unit rows, the other side.
        scale: the inverse temperature that multiplies the cosines.
        share: of a in a mixed pair, from 0 to 1.
        block_size: rows of logits that exist at a time on a device; None chooses 512.
    """
    _check(a, b, block_size)
    each = (jnp.arange(len(a), dtype=jnp.int32),)
    mixed = checks.side(geodesic(a, b, share), each)
    own = scale * jnp.sum(a * b, axis=1)
    total = jnp.float32(0)
    for query in (a, b):
        side = checks.scaled(checks.side(query, each), scale)
        (others,) = pairwise_reduce(LOG_SUM_EXP, side, mixed, among="unlike", columns=False, block_size=block_size)
        total += jnp.mean(jnp.logaddexp(others, own) - own)
    return total


def mixed_pairs(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    scale: Float[Array, ""] | float,
    share: Float[Array, ""] | float,
    *,
    mixed: Mixed,
    block_size: int | None = None,
) -> Float[Array, ""]:
    """V-Mix, L-Mix and VL-Mix: rows are mixed with those of the batch in reverse, and a mixed row has two partners.

    Where one side is mixed, ``share`` and 1 - ``share`` weigh the two in the target. Where both are, each counts 1: the
    two mixed rows have the same two sources. The mean of both directions.

    Args:
        a, b, scale, block_size: as ``mixed_negatives``.
        share: of a row in its mixture with the row from the end.
        mixed: the side that is mixed, or both.
    """
    _check(a, b, block_size)
    checks.check_choice("mixed", mixed, get_args(Mixed))
    left, right = (geodesic(x, x[::-1], share) if mixed in (name, "both") else x for name, x in (("a", a), ("b", b)))
    first, second = (1.0, 1.0) if mixed == "both" else (share, 1 - share)
    left = left * scale
    sums = pairwise_reduce(LOG_SUM_EXP, checks.side(left), checks.side(right), block_size=block_size)
    candidates = (jnp.mean(sums[0]) + jnp.mean(sums[1])) / 2
    # The loss is linear in its target, and both directions have the same partners.
    partners = [jnp.mean(jnp.sum(left * partner, axis=1)) for partner in (right, right[::-1])]
    return (first + second) * candidates - first * partners[0] - second * partners[1]


def _check(a: Array, b: Array, block_size: int | None) -> None:
    checks.check_pairs(a, b, ids=(), weights=None, present=(None, None), extras=(None, None), block_size=block_size)
