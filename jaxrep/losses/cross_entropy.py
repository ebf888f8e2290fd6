"""Cross-entropy of rows against a table of fixed targets (classes, a queue, a vocabulary), and of tokens' places.

Logits against 50,000 tokens or a million classes do not fit in memory; here only a block of rows of them exists at a
time.
"""

import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from jaxrep.batch import Array
from jaxrep.losses.pairwise import checks
from jaxrep.losses.pairwise.pairs import as_rows, scale_rows
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import LOG_SUM_EXP


def blockwise_cross_entropy(
    x: Float[Array, "B D"],
    table: Float[Array, "K D"],
    labels: Int[Array, " B"],
    logit_scale: Float[Array, ""] | float = 1.0,
    *,
    label_smoothing: float = 0.0,
    block_size: int | None = None,
) -> Float[Array, " B"]:
    """Return ``-log softmax(logit_scale x·table.T)[label]`` of each row, in memory linear in B and K.

    Under an ambient mesh the axes ``data`` and ``fsdp`` shard the rows of x; K may be any number.

    Args:
        x: rows; normalize them and the table for cosines.
        table: targets. A bias per class is one more column of it, against a column of ones of x.
        labels: row of the table that is the target; a negative one has loss 0, one beyond the table NaN.
        logit_scale: the inverse temperature.
        label_smoothing: share of the target's mass that is spread evenly over the table.
        block_size: rows of logits in memory per device; None chooses 512.

    Raises:
        ValueError: shapes or types that do not fit, or a batch that the mesh does not divide.
    """
    for name, matrix in (("x", x), ("table", table)):
        checks.check_matrix(name, matrix)
    checks.check_width("table", table, x)
    checks.check_column("labels", labels, len(x), jnp.integer)
    checks.check_share("label_smoothing", label_smoothing)
    checks.check_blocks(len(x), block_size)
    query, targets = scale_rows(as_rows(x, present=labels >= 0), logit_scale), as_rows(table)
    (lse,) = pairwise_reduce(LOG_SUM_EXP, query, targets, columns=False, block_size=block_size)
    right = targets.x.at[jnp.maximum(labels, 0)].get(mode="fill", fill_value=jnp.nan)
    target = jnp.sum(query.x * right, -1)
    mean = jnp.sum(query.x * jnp.mean(targets.x, 0), -1)
    return jnp.where(labels < 0, 0.0, lse - (1 - label_smoothing) * target - label_smoothing * mean)


def place_cross_entropy(logits: Float[Array, "B N N"]) -> Float[Array, " B"]:
    """Return the mean over the N tokens of a row of ``-log softmax(logits)[the token's own place]``, in float32.

    Zhai et al. 2022, Position Prediction as an Effective Pretraining Strategy, arXiv:2207.07611.

    Args:
        logits: of each token, for each of the N places.

    Raises:
        ValueError: there are not as many places as tokens.
    """
    if logits.ndim != 3 or logits.shape[1] != logits.shape[2]:
        raise ValueError(
            f"logits of places have shape {logits.shape}, where [B,N,N] is expected: as many places as tokens"
        )
    places = jnp.broadcast_to(jnp.arange(logits.shape[1]), logits.shape[:2])
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), places).mean(axis=1)
