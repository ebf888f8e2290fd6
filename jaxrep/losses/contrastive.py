"""InfoNCE: each row is classified among the rows of the other side (van den Oord et al., 2018, arXiv:1807.03748).

With both directions it is the loss of CLIP (Radford et al., 2021, arXiv:2103.00020, figure 3) and of ALIGN (Jia et
al., 2021, arXiv:2102.05918, equations 1 and 2). ``plain_info_nce`` is the loss in its simplest form; ``info_nce`` is
the same number in memory linear in the batch, on any mesh, with the options of recipes.

Mixtures of embeddings on the sphere are hard negatives, or pairs with soft targets: Geodesic Multi-Modal Mixup (Oh et
al. 2023, arXiv:2203.03897), in the forms of the released code.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks, pairs
from jaxrep.losses.pairwise.pairs import DEFAULTS, PairOptions
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import LOG_SUM_EXP, SUM, Rows

Direction = Literal["mean", "sum", "a_to_b", "b_to_a"]
Extras = Sequence[Rows | None]
Mixed = Literal["a", "b", "both"]
SMALL_SINE = 1e-3
"""Sine of an angle below which an arc is treated as a line: they differ by its square, and arccos has a derivative."""


def plain_info_nce(a: Float[Array, "B D"], b: Float[Array, "B D"], logit_scale: Float[Array, ""]) -> Float[Array, ""]:
    """Return the mean of both directions, from the whole matrix of logits: the form to read and to compare with."""
    logits = logit_scale * jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    a_to_b = jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
    b_to_a = jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
    return -jnp.mean(a_to_b + b_to_a) / 2


def info_nce(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    logit_scale: Float[Array, ""] | float,
    options: PairOptions = DEFAULTS,
    *,
    direction: Direction = "mean",
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Return the cross-entropy of row i of b among all rows of b, given row i of a, and the reverse.

    Memory is linear in B. Under an ambient mesh the axes ``data`` and ``fsdp`` shard the rows, and this is still the
    loss of the global batch.

    Args:
        a: normalized rows, one side of B pairs.
        b: normalized rows, the other side.
        logit_scale: inverse temperature that multiplies the cosines.
        options: ids, weights, extra negatives and so on. ``duplicates``: ``negative`` treats them as all other rows.
            ``ignore`` removes them from the candidates. With ``supcon`` they share the target, whose log-probabilities
            are averaged (Khosla et al., 2020, arXiv:2004.11362, equation 2). With ``mil_nce`` the target is any of
            them: the logarithm of the sum of their probabilities (Miech et al., 2020, arXiv:1912.06430, equation 1).
        direction: the mean of both directions, their sum (ALIGN), or one of them.
        label_smoothing: share of the target's mass that is spread evenly over all candidates.

    Returns:
        float32 scalar; 0 if no pair is left.

    Raises:
        ValueError: shapes or types that do not fit, or a batch that the mesh does not divide.
    """
    checks.check_pairs(a, b, options)
    checks.check_duplicates(options, "ignore", "supcon", "mil_nce")
    checks.check_number("logit_scale", logit_scale)
    checks.check_choice("direction", direction, get_args(Direction))
    for name, unused_by, extra in (("extra_a", "a_to_b", options.extra_a), ("extra_b", "b_to_a", options.extra_b)):
        if direction == unused_by and extra is not None:
            raise ValueError(f"direction='{direction}' has no use for {name}: leave it out, or take direction='mean'")
    checks.check_share("label_smoothing", label_smoothing)
    left, right, extras = options.rows(a, b, logit_scale)
    if direction == "b_to_a":
        left, right, extras = right, left, extras[::-1]
    losses = _losses(left, right, extras if direction in ("mean", "sum") else extras[:1], options, label_smoothing)
    weights = pairs.row_weights(len(a), options.weights, *options.present)
    means = jnp.stack([pairs.weighted_mean(loss, weights) for loss in losses])
    return jnp.mean(means) if direction == "mean" else jnp.sum(means)


def _losses(left: Rows, right: Rows, extras: Extras, options: PairOptions, smoothing: float) -> list[Array]:
    """Return the losses [B] of the rows of left, and, if there are two entries of extras, of the rows of right."""
    reduce = functools.partial(pairwise_reduce, columns=len(extras) == 2, block_size=options.block_size)
    positives = jnp.sum(left.x * right.x, -1)
    if options.duplicates == "ignore":
        others = reduce(LOG_SUM_EXP, left, right, pairs="non_duplicates")
        candidates = [jnp.logaddexp(lse, positives) for lse in others]
    else:
        candidates = reduce(LOG_SUM_EXP, left, right)
    targets = _targets(left, right, positives, options, reduce)
    means = _means(left, right, extras, positives, options, reduce) if smoothing else targets
    losses = []
    for query, extra, lse, target, mean in zip((left, right), extras, candidates, targets, means, strict=False):
        if extra is not None:
            lse = jnp.logaddexp(lse, pairs.reduce_extra(LOG_SUM_EXP, query, extra, block_size=options.block_size))
        losses.append(lse - (1 - smoothing) * target - smoothing * mean)
    return losses


def _targets(left: Rows, right: Rows, positives: Array, options: PairOptions, reduce: Callable) -> Sequence[Array]:
    """Return the target logit of each row, in each direction."""
    if options.duplicates == "supcon":
        sums = reduce(SUM, left, right, pairs="duplicates")
        counts = reduce(SUM, pairs.unit_logits(left), pairs.unit_logits(right), pairs="duplicates")
        return [total / jnp.maximum(count, 1) for total, count in zip(sums, counts, strict=True)]
    if options.duplicates == "mil_nce":
        return reduce(LOG_SUM_EXP, left, right, pairs="duplicates")
    return positives, positives


def _means(
    left: Rows, right: Rows, extras: Extras, positives: Array, options: PairOptions, reduce: Callable
) -> list[Array]:
    """Return the mean logit of the candidates of each row, in each direction."""
    if options.duplicates == "ignore":
        sums = [x + positives for x in reduce(SUM, left, right, pairs="non_duplicates")]
        counts = [n + 1 for n in reduce(SUM, pairs.unit_logits(left), pairs.unit_logits(right), pairs="non_duplicates")]
    else:
        # The sum of products is the product with the sum, without any pairs.
        sums = [jnp.sum(q.x * jnp.sum(k.x, 0), -1) for q, k in ((left, right), (right, left))]
        counts = [len(k.x) if k.present is None else jnp.sum(k.present) for k in (right, left)]
    extra_sum = functools.partial(pairs.reduce_extra, SUM, block_size=options.block_size)
    means = []
    for query, extra, total, count in zip((left, right), extras, sums, counts, strict=False):
        if extra is not None:
            total += extra_sum(query, extra)
            count += extra_sum(pairs.unit_logits(query), pairs.unit_logits(extra))
        means.append(total / jnp.maximum(count, 1))
    return means


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
