"""The sigmoid loss: every pair of rows is a yes or a no of its own (Zhai et al., 2023, arXiv:2303.15343, equation 1).

``plain_sigmoid`` is the whole of it; ``sigmoid`` is the same number in memory linear in the batch, on any mesh, with
what recipes add.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import SUM_SOFTPLUS

Positives = Literal["pair", "masked", "shared"]


def plain_pairwise_sigmoid(
    a: Float[Array, "B D"], b: Float[Array, "B D"], scale: Float[Array, ""], bias: Float[Array, ""]
) -> Float[Array, ""]:
    """From the whole matrix of logits: to read, to test with, and to measure against."""
    logits = scale * jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) + bias
    sign = 2 * jnp.eye(len(a)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(sign * logits)) / len(a)


def pairwise_sigmoid(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    *,
    ids: tuple[Int[Array, " B"], ...] = (),
    positives: Positives = "pair",
    extra_a: checks.Extra = None,
    extra_b: checks.Extra = None,
    weights: Float[Array, " B"] | None = None,
    present: checks.Present = (None, None),
    block_size: int | None = None,
) -> Float[Array, ""]:
    """The sum of ``-log sigmoid(z (scale a·b + bias))`` over all pairs, z = 1 for partners, else -1; divided by B.

    Under an ambient mesh the rows lie over its axes ``data`` and ``fsdp``, and this is still the loss of the global
    batch.

    Args:
        a: normalized rows, one side of B pairs.
        b: normalized rows, the other side.
        scale: the inverse temperature that multiplies the cosines.
        bias: what is added to every logit.
        ids: arrays in any of which two pairs that are equal are alike (the same picture, the same name).
        positives: what becomes of the rows that are alike. ``pair``: z = -1 as for all others, and there are no ids.
            ``masked``: they are left out. ``shared``: z = 1.
        extra_a: normalized rows [E,D] with z = -1 against every row of b (a queue, hard examples). As a ``Rows`` they
            may be absent, or alike by ids that stand for ``ids`` in order: then they are left out.
        extra_b: the same against every row of a, [F,D].
        weights: of an example, not negative. Two rows weigh the mean of their weights, a row against an extra one its
            own; the divisor is the sum of the weights of the pairs.
        present: rows of a and of b that exist. What is between two that do not both exist is left out.
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
    checks.check_number("bias", bias)
    checks.check_positives(positives, ids, get_args(Positives))
    bias = jnp.asarray(bias, jnp.float32)
    alike = ids or (jnp.arange(len(a), dtype=jnp.int32),)
    left, right = (checks.side(x, alike, here) for x, here in zip((a, b), present, strict=True))
    left = checks.scaled(left, scale)
    extras = checks.extra(extra_b), checks.scaled(checks.extra(extra_a), scale)

    over = functools.partial(pairwise_reduce, SUM_SOFTPLUS, block_size=block_size)
    # Without weights a sum along columns would only say again what the sum along rows says.
    columns = weights is not None
    losses = list(over(left, right, bias, among="unlike", columns=columns))
    if positives == "shared":
        alikes = over(left._replace(x=-left.x), right, -bias, among="alike", columns=columns)
        losses = [no + yes for no, yes in zip(losses, alikes, strict=True)]
    own = [checks.weights_of(len(a), weights, here) for here in present]
    pairs = checks.weights_of(len(a), weights, *present)
    total = sum(checks.weighted_sum(loss, w) / len(losses) for loss, w in zip(losses, own, strict=False))
    for query, extra, w in zip((left, right), extras, own, strict=True):
        if extra is not None:
            loss = checks.over_extra(SUM_SOFTPLUS, query, extra, bias, block_size=block_size)
            total += checks.weighted_sum(loss, w)
    if positives != "shared":
        total += checks.weighted_sum(jax.nn.softplus(-jnp.sum(left.x * right.x, -1) - bias), pairs)
    return checks.over_sum(jnp.asarray(total), pairs)
