"""Losses of deep metric learning in one form, for clean and for mixed examples.

For an anchor a and items v with targets y in [0, 1] (1: same class, 0: other class, between: a mixture of both),

    loss(a) = pull(sum_v y p(s(a, v))) + push(sum_v (1 - y) n(s(a, v)))

with the similarity s and functions pull, push, p and n that depend on the loss (Venkataramanan et al. 2022,
arXiv:2106.04990, equations 2 and 8, table 1). Batches have hundreds of rows: the matrix of similarities is in memory.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise.checks import check_choice

Kind = Literal["contrastive", "multi_similarity", "proxy_anchor"]

MARGIN = 0.5
"""Contrastive: similarity up to which an item of another class has no loss."""
PULL, PUSH, CENTER = 18.0, 75.0, 0.77
"""Multi-similarity: sharpness of both parts and the similarity between them (Venkataramanan et al., section 4.1, from
memory; the released code of the loss has 2, 40 and 0.5)."""
PROXY_SHARPNESS, PROXY_MARGIN = 32.0, 0.1
"""Proxy-anchor (Kim et al. 2020, arXiv:2003.13911, equation 4 and section 4.2)."""


def metric_losses(
    anchors: Float[Array, "A D"],
    items: Float[Array, "N D"],
    targets: Float[Array, "A N"],
    included: Bool[Array, "A N"],
    *,
    kind: Kind,
) -> Float[Array, " A"]:
    """Return the loss of each anchor; the mean over anchors is the loss.

    With ``proxy_anchor`` only proxies with an item of their class have a pull: it is scaled up, so that its mean is
    over those proxies.

    Args:
        anchors, items: normalized rows; anchors of ``proxy_anchor`` are proxies of the classes.
        targets: share of the anchor's class in an item, from 0 to 1.
        included: pairs that take part.
        kind: ``contrastive`` (Hadsell et al. 2006, with similarities), ``multi_similarity`` (Wang et al. 2019, without
            its mining) or ``proxy_anchor``.
    """
    check_choice("kind", kind, get_args(Kind))
    s = jnp.matmul(anchors, items.T, precision=jax.lax.Precision.HIGHEST)
    positive, negative = jnp.where(included, targets, 0.0), jnp.where(included, 1 - targets, 0.0)
    if kind == "contrastive":
        return jnp.sum(negative * jax.nn.relu(s - MARGIN) - positive * s, axis=1)
    if kind == "multi_similarity":
        return _soft_sum(positive, -(s - CENTER), PULL) + _soft_sum(negative, s - CENTER, PUSH)
    with_positive = jnp.sum(jnp.any(positive > 0, axis=1))
    pull = _soft_sum(positive, PROXY_MARGIN - s, PROXY_SHARPNESS) * len(s) / jnp.maximum(with_positive, 1)
    return PROXY_SHARPNESS * (pull + _soft_sum(negative, s + PROXY_MARGIN, PROXY_SHARPNESS))


def _soft_sum(weights: Array, x: Array, sharpness: float) -> Array:
    """Return ``log(1 + sum_v w exp(sharpness x)) / sharpness`` along rows."""
    logits = jnp.where(weights > 0, sharpness * x + jnp.log(jnp.where(weights > 0, weights, 1.0)), -jnp.inf)
    logits = jnp.concatenate([jnp.zeros_like(logits[:, :1]), logits], axis=1)
    return jax.nn.logsumexp(logits, axis=1) / sharpness


def hinge_loss(
    a: Float[Array, "B D"], positive: Float[Array, "B D"], negative: Float[Array, "B D"], margin: float
) -> Float[Array, " B"]:
    """Return ``max(0, margin - a·positive + a·negative)`` of each row, float32 (Structure-CLIP, arXiv:2305.06152).

    Rows are normalized. The derivative is 0 where the margin is reached, and at its edge.
    """
    return jax.nn.relu(margin - jnp.sum(a * (positive - negative), axis=-1))
