"""The sigmoid loss: every pair of rows is a binary classification (Zhai et al., 2023, arXiv:2303.15343, equation 1).

``plain_pairwise_sigmoid`` is the loss in its simplest form; ``pairwise_sigmoid`` is the same number in memory linear
in the batch, on any mesh, with the options of recipes.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks
from jaxrep.losses.pairwise.pairs import (
    DEFAULTS,
    PairOptions,
    divide_by_sum,
    reduce_extra,
    reduce_row_extra,
    row_weights,
    weighted_sum,
)
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import SUM_SOFTPLUS


def plain_pairwise_sigmoid(
    a: Float[Array, "B D"], b: Float[Array, "B D"], logit_scale: Float[Array, ""], bias: Float[Array, ""]
) -> Float[Array, ""]:
    """Return the loss from the whole matrix of logits: the form to read and to compare with."""
    logits = logit_scale * jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST) + bias
    sign = 2 * jnp.eye(len(a)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(sign * logits)) / len(a)


def pairwise_sigmoid(
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    logit_scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float,
    options: PairOptions = DEFAULTS,
) -> Float[Array, ""]:
    """Return the sum of ``-log sigmoid(z (logit_scale a·b + bias))`` over all pairs of rows, divided by B.

    z is 1 for the B pairs, else -1. Under an ambient mesh the axes ``data`` and ``fsdp`` shard the rows, and this is
    still the loss of the global batch.

    Args:
        a: normalized rows, one side of B pairs.
        b: normalized rows, the other side.
        logit_scale: inverse temperature that multiplies the cosines.
        bias: added to every logit.
        options: ids, weights, extra negatives and so on. ``duplicates``: z is -1 with ``negative`` and 1 with
            ``positive``; ``ignore`` leaves them out. Two rows have the mean of their weights, a row and an extra row
            have the weight of the row; the divisor is the sum of the weights of the pairs.

    Returns:
        float32 scalar; 0 if no pair is left.

    Raises:
        ValueError: shapes or types that do not fit, or a batch that the mesh does not divide.
    """
    checks.check_pairs(a, b, options)
    checks.check_duplicates(options, "ignore", "positive")
    checks.check_number("logit_scale", logit_scale)
    checks.check_number("bias", bias)
    bias = jnp.asarray(bias, jnp.float32)
    ids = options.ids or (jnp.arange(len(a), dtype=jnp.int32),)
    sides = options.sides(a, b, logit_scale, ids)
    left, right = (side.rows for side in sides)
    # Without weights the sums along columns would repeat the sums along rows.
    columns, block_size = options.weights is not None, options.block_size
    reduce = functools.partial(pairwise_reduce, SUM_SOFTPLUS, columns=columns, block_size=block_size)
    losses = list(reduce(left, right, bias, pairs="non_duplicates"))
    if options.duplicates == "positive":
        positives = reduce(left._replace(x=-left.x), right, -bias, pairs="duplicates")
        losses = [no + yes for no, yes in zip(losses, positives, strict=True)]
    weights = [row_weights(len(a), options.weights, present) for present in options.present]
    pair_weights = row_weights(len(a), options.weights, *options.present)
    total = sum(weighted_sum(loss, w) / len(losses) for loss, w in zip(losses, weights, strict=False))
    for side, w in zip(sides, weights, strict=True):
        if side.extra is not None:
            total += weighted_sum(reduce_extra(SUM_SOFTPLUS, side.rows, side.extra, bias, block_size=block_size), w)
        if side.row_extra is not None:
            total += weighted_sum(reduce_row_extra(SUM_SOFTPLUS, side.rows, side.row_extra, bias), w)
    if options.duplicates != "positive":
        total += weighted_sum(jax.nn.softplus(-jnp.sum(left.x * right.x, -1) - bias), pair_weights)
    return divide_by_sum(jnp.asarray(total), pair_weights)
