"""InfoNCE: each row finds its partner among the rows of the other side (van den Oord et al., 2018, arXiv:1807.03748).

With both directions it is the loss of CLIP (Radford et al., 2021, arXiv:2103.00020, figure 3) and of ALIGN (Jia et
al., 2021, arXiv:2102.05918, equations 1 and 2). ``plain_info_nce`` is the whole of it; ``info_nce`` is the same
number in memory linear in the batch, on any mesh, with what recipes add.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import LOG_SUM_EXP, SUM, Rows

Direction = Literal["mean", "sum", "a_to_b", "b_to_a"]
Positives = Literal["pair", "masked", "mean_of_logs", "log_of_sum"]


def plain_info_nce(a: Float[Array, "B D"], b: Float[Array, "B D"], scale: Float[Array, ""]) -> Float[Array, ""]:
    """The mean of both directions, from the whole matrix of logits: to read, to test with, and to measure against."""
    logits = scale * jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
    a_to_b = jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
    b_to_a = jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
    return -jnp.mean(a_to_b + b_to_a) / 2


def info_nce(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    scale: Float[Array, ""] | float,
    *,
    direction: Direction = "mean",
    label_smoothing: float = 0.0,
    ids: tuple[Int[Array, " B"], ...] = (),
    positives: Positives = "pair",
    extra_a: checks.Extra = None,
    extra_b: checks.Extra = None,
    weights: Float[Array, " B"] | None = None,
    present: checks.Present = (None, None),
    block_size: int | None = None,
) -> Float[Array, ""]:
    """Cross-entropy of finding row i of b from row i of a, and the reverse, in memory linear in B.

    Under an ambient mesh the rows lie over its axes ``data`` and ``fsdp``, and this is still the loss of the global
    batch.

    Args:
        a: normalized rows, one side of B pairs.
        b: normalized rows, the other side.
        scale: the inverse temperature that multiplies the cosines.
        direction: the mean of both directions, their sum (ALIGN), or one of them.
        label_smoothing: share of the target's mass that is spread evenly over all candidates that are not masked.
        ids: arrays in any of which two pairs that are equal are alike (the same picture, the same name).
        positives: what becomes of the other candidates that are alike. ``pair``: they are negatives as all others,
            and there are no ids. ``masked``: they are no candidates. ``mean_of_logs``: they share the target, whose
            log-probabilities are averaged (Khosla et al., 2020, arXiv:2004.11362, equation 2). ``log_of_sum``: the
            target is any of them: the logarithm of the sum of their probabilities (Miech et al., 2020,
            arXiv:1912.06430, equation 1).
        extra_a: normalized rows [E,D] that are negatives of every row of b (a queue, hard examples). As a ``Rows`` they
            may be absent, or alike by ids that stand for ``ids`` in order: then they are no candidates.
        extra_b: the same for every row of a, [F,D].
        weights: of a pair, not negative; the loss is divided by their sum.
        present: rows of a and of b that exist. An absent row is no candidate, and a pair that lacks one has no loss.
        block_size: rows of logits that exist at a time on a device; None chooses 512.

    Returns:
        float32 scalar; 0 if no pair is left.

    Raises:
        ValueError: shapes or types that do not fit, or a batch that the mesh does not divide.
    """
    checks.check_pairs(
        a, b, ids=ids, weights=weights, present=present, extras=(extra_a, extra_b), block_size=block_size
    )
    checks.check_number("scale", scale)
    checks.check_choice("direction", direction, get_args(Direction))
    for way, name, extra in (("a_to_b", "extra_a", extra_a), ("b_to_a", "extra_b", extra_b)):
        if direction == way and extra is not None:
            raise ValueError(f"direction='{way}' has no use for {name}: leave it out, or take direction='mean'")
    checks.check_share("label_smoothing", label_smoothing)
    checks.check_positives(positives, ids, get_args(Positives))
    left, right = (checks.side(x, ids, here) for x, here in zip((a, b), present, strict=True))
    left = checks.scaled(left, scale)
    extras = [checks.extra(extra_b), checks.scaled(checks.extra(extra_a), scale)]
    if direction == "b_to_a":
        left, right, extras = right, left, extras[::-1]
    if direction not in ("mean", "sum"):
        extras = extras[:1]
    weights = checks.weights_of(len(a), weights, *present)
    losses = _losses(left, right, extras, positives, label_smoothing, block_size)
    means = jnp.stack([checks.weighted_mean(loss, weights) for loss in losses])
    return jnp.mean(means) if direction == "mean" else jnp.sum(means)


def _losses(left: Rows, right: Rows, extras: list, positives: str, smoothing: float, block_size: int | None) -> list:
    """Losses [B] of the rows of left, and, if there are two entries of extras, of the rows of right."""
    over = functools.partial(pairwise_reduce, columns=len(extras) == 2, block_size=block_size)
    own = jnp.sum(left.x * right.x, -1)
    if positives == "masked":
        candidates = [jnp.logaddexp(x, own) for x in over(LOG_SUM_EXP, left, right, among="unlike")]
    else:
        candidates = over(LOG_SUM_EXP, left, right)
    targets = _targets(left, right, own, positives, over)
    means = _means(left, right, extras, own, positives, over, block_size) if smoothing else targets
    losses = []
    for query, extra, lse, target, mean in zip((left, right), extras, candidates, targets, means, strict=False):
        if extra is not None:
            lse = jnp.logaddexp(lse, checks.over_extra(LOG_SUM_EXP, query, extra, block_size=block_size))
        losses.append(lse - (1 - smoothing) * target - smoothing * mean)
    return losses


def _targets(left: Rows, right: Rows, own: Array, positives: str, over: Callable) -> Sequence[Array]:
    """Of each row, the logit that the loss raises, in each direction."""
    if positives == "mean_of_logs":
        sums, counts = over(SUM, left, right, among="alike"), _counts(left, right, "alike", over)
        return [total / jnp.maximum(count, 1) for total, count in zip(sums, counts, strict=True)]
    if positives == "log_of_sum":
        return over(LOG_SUM_EXP, left, right, among="alike")
    return own, own


def _means(
    left: Rows, right: Rows, extras: list, own: Array, positives: str, over: Callable, block_size: int | None
) -> list[Array]:
    """Of each row, the mean logit of its candidates, in each direction."""
    if positives == "masked":
        sums = [x + own for x in over(SUM, left, right, among="unlike")]
        counts = [n + 1 for n in _counts(left, right, "unlike", over)]
    else:
        # The sum of products is the product with the sum: no pairs are needed.
        sums = [jnp.sum(q.x * jnp.sum(k.x, 0), -1) for q, k in ((left, right), (right, left))]
        counts = [len(k.x) if k.present is None else jnp.sum(k.present) for k in (right, left)]
    means = []
    for query, extra, total, count in zip((left, right), extras, sums, counts, strict=False):
        if extra is not None:
            total = total + checks.over_extra(SUM, query, extra, block_size=block_size)
            count = count + checks.over_extra(SUM, _ones(query), _ones(extra), block_size=block_size)
        means.append(total / jnp.maximum(count, 1))
    return means


def _counts(left: Rows, right: Rows, among: str, over: Callable) -> list[Array]:
    """How many rows enter, by the sum of logits that are all 1."""
    return list(over(SUM, _ones(left), _ones(right), among=among))


def _ones(side: Rows) -> Rows:
    return side._replace(x=jnp.ones((len(side.x), 1)))
