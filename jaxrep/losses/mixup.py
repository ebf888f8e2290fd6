"""Mixtures of embeddings on the sphere: hard negatives, or pairs with soft targets.

Geodesic Multi-Modal Mixup (Oh et al. 2023, arXiv:2203.03897), in the forms of the released code.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks, pairs
from jaxrep.losses.pairwise.pairs import PairOptions
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import LOG_SUM_EXP

Mixed = Literal["a", "b", "both"]
SMALL_SINE = 1e-3
"""Sine of an angle below which an arc is treated as a line: they differ by its square, and arccos has a derivative."""


def geodesic(a: Float[Array, "B D"], b: Float[Array, "B D"], share: Float[Array, ""] | float) -> Float[Array, "B D"]:
    """Return unit rows on the arc between unit rows: a if ``share`` is 1, b if it is 0."""
    cosine = jnp.sum(a * b, axis=1, keepdims=True)
    near = 1 - cosine**2 < SMALL_SINE**2
    angle = jnp.arccos(jnp.where(near, 0.0, cosine))
    parts = [jnp.where(near, s, jnp.sin(s * angle) / jnp.sin(angle)) for s in (share, 1 - share)]
    return parts[0] * a + parts[1] * b


def mixed_negatives(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    logit_scale: Float[Array, ""] | float,
    share: Float[Array, ""] | float,
    *,
    block_size: int | None = None,
) -> Float[Array, ""]:
    """Return the loss of m2-Mix: InfoNCE whose negatives are the mixed pairs of the others; the sum of both directions.

    Args:
        a: unit rows, one side of B pairs.
        b: unit rows, the other side.
        logit_scale: inverse temperature that multiplies the cosines.
        share: share of a in a mixed pair, from 0 to 1.
        block_size: rows of logits in memory per device; None chooses 512.
    """
    checks.check_pairs(a, b, PairOptions(block_size=block_size))
    ids = (jnp.arange(len(a), dtype=jnp.int32),)
    mixed = pairs.as_rows(geodesic(a, b, share), ids)
    positives = logit_scale * jnp.sum(a * b, axis=1)
    options = {"pairs": "non_duplicates", "columns": False, "block_size": block_size}
    total = jnp.float32(0)
    for query in (pairs.scale_rows(pairs.as_rows(x, ids), logit_scale) for x in (a, b)):
        (negatives,) = pairwise_reduce(LOG_SUM_EXP, query, mixed, **options)
        total += jnp.mean(jnp.logaddexp(negatives, positives) - positives)
    return total


def mixed_pairs(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    logit_scale: Float[Array, ""] | float,
    share: Float[Array, ""] | float,
    *,
    mixed: Mixed,
    block_size: int | None = None,
) -> Float[Array, ""]:
    """Return the loss of V-Mix, L-Mix or VL-Mix: rows are mixed with the batch in reverse order, and have two partners.

    If one side is mixed, the target weighs the two partners by ``share`` and 1 - ``share``. If both are, each counts 1:
    the two mixed rows have the same two sources. The loss is the mean of both directions.

    Args:
        a, b, logit_scale, block_size: as in ``mixed_negatives``.
        share: share of a row in its mixture with the row from the end.
        mixed: the side that is mixed, or both.
    """
    checks.check_pairs(a, b, PairOptions(block_size=block_size))
    checks.check_choice("mixed", mixed, get_args(Mixed))
    left, right = (geodesic(x, x[::-1], share) if mixed in (name, "both") else x for name, x in (("a", a), ("b", b)))
    first, second = (1.0, 1.0) if mixed == "both" else (share, 1 - share)
    left = left * logit_scale
    sums = pairwise_reduce(LOG_SUM_EXP, pairs.as_rows(left), pairs.as_rows(right), block_size=block_size)
    candidates = (jnp.mean(sums[0]) + jnp.mean(sums[1])) / 2
    # The loss is linear in its target, and both directions have the same partners.
    partners = [jnp.mean(jnp.sum(left * partner, axis=1)) for partner in (right, right[::-1])]
    return (first + second) * candidates - first * partners[0] - second * partners[1]
