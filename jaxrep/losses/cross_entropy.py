"""Cross-entropy of rows against a table of fixed targets: classes, prototypes, a queue, the embeddings of a vocabulary.

Logits against 50,000 tokens or a million classes are what does not fit; here only a block of rows of them exists at a
time.
"""

import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import LOG_SUM_EXP


def blockwise_cross_entropy(
    x: Float[Array, "B D"],
    table: Float[Array, "K D"],
    labels: Int[Array, " B"],
    scale: Float[Array, ""] | float = 1.0,
    *,
    label_smoothing: float = 0.0,
    block_size: int | None = None,
) -> Float[Array, " B"]:
    """Cross-entropy of each row: ``-log softmax(scale x·table.T)[label]``, in memory linear in B and K.

    Under an ambient mesh the rows of x lie over its axes ``data`` and ``fsdp``; K may be any number.

    Args:
        x: rows, as they are (cosines are had from rows and a table that are normalized).
        table: targets. A bias a class is one column more of it, against a column of ones of x.
        labels: row of the table that is right; a negative one has loss 0, one beyond the table NaN.
        scale: the inverse temperature.
        label_smoothing: share of the target's mass that is spread evenly over the table.
        block_size: rows of logits that exist at a time on a device; None chooses 512.

    Raises:
        ValueError: shapes or types that do not fit, or a batch that the mesh does not divide.
    """
    for name, matrix in (("x", x), ("table", table)):
        checks.check_matrix(name, matrix)
    checks.check_width("table", table, x)
    checks.check_column("labels", labels, len(x), jnp.integer)
    checks.check_share("label_smoothing", label_smoothing)
    checks.check_blocks(len(x), block_size)
    query, targets = checks.scaled(checks.side(x, present=labels >= 0), scale), checks.side(table)
    (lse,) = pairwise_reduce(LOG_SUM_EXP, query, targets, columns=False, block_size=block_size)
    right = targets.x.at[jnp.maximum(labels, 0)].get(mode="fill", fill_value=jnp.nan)
    target = jnp.sum(query.x * right, -1)
    mean = jnp.sum(query.x * jnp.mean(targets.x, 0), -1)
    return jnp.where(labels < 0, 0.0, lse - (1 - label_smoothing) * target - label_smoothing * mean)


def mean_blockwise_cross_entropy(
    x: Float[Array, "B D"],
    table: Float[Array, "K D"],
    labels: Int[Array, " B"],
    scale: Float[Array, ""] | float = 1.0,
    *,
    label_smoothing: float = 0.0,
    weights: Float[Array, " B"] | None = None,
    block_size: int | None = None,
) -> Float[Array, ""]:
    """The weighted mean of ``table_losses`` over the rows whose label is not negative; 0 if there is none.

    The whole loss in one call, for a training loop of one's own. The term ``CrossEntropy`` takes ``table_losses``: its
    mean is over a batch that comes in microbatches.
    """
    losses = blockwise_cross_entropy(x, table, labels, scale, label_smoothing=label_smoothing, block_size=block_size)
    if weights is not None:
        checks.check_column("weights", weights, len(x), jnp.floating)
    return checks.weighted_mean(losses, checks.weights_of(len(x), weights, labels >= 0))
