"""Losses of deep metric learning on pairs of a class, in one form that takes mixed examples as well.

Of an anchor a and items v with targets y in [0, 1] (1: of its class, 0: of another, between: a mixture of both),

    loss(a) = pull(sum_v y p(s(a, v))) + push(sum_v (1 - y) n(s(a, v)))

with the similarity s and functions that name the loss (Venkataramanan et al. 2022, arXiv:2106.04990, equations 2 and 8,
table 1). Batches of metric learning are hundreds of rows: the matrix of similarities is held.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise.checks import check_choice

Kind = Literal["contrastive", "multi_similarity", "proxy_anchor"]

MARGIN = 0.5
"""Contrastive: similarity up to which an item of another class costs nothing."""
PULL, PUSH, CENTER = 18.0, 75.0, 0.77
"""Multi-similarity: sharpness of both parts and the similarity between them (Venkataramanan et al., section 4.1, from
memory; the released code of the loss has 2, 40 and 0.5)."""
PROXY_SHARPNESS, PROXY_MARGIN = 32.0, 0.1
"""Proxy-anchor (Kim et al. 2020, arXiv:2003.13911, equation 4 and section 4.2)."""


def metric_losses(
    anchors: Float[Array, "A D"],
    items: Float[Array, "N D"],
    targets: Float[Array, "A N"],
    enters: Bool[Array, "A N"],
    *,
    kind: Kind,
) -> Float[Array, " A"]:
    """The loss of each anchor; the mean over anchors is the loss.

    Proxies pull as many as have an item of their class, and all push: there the pull of each is scaled up, so that its
    mean is over those that pull.

    Args:
        anchors, items: normalized rows; anchors of ``proxy_anchor`` are proxies of the classes.
        targets: how far an item is of the anchor's class, from 0 to 1.
        enters: pairs that take part.
        kind: ``contrastive`` (Hadsell et al. 2006, with similarities), ``multi_similarity`` (Wang et al. 2019, without
            its mining) or ``proxy_anchor``.
    """
    check_choice("kind", kind, get_args(Kind))
    s = jnp.matmul(anchors, items.T, precision=jax.lax.Precision.HIGHEST)
    like, unlike = jnp.where(enters, targets, 0.0), jnp.where(enters, 1 - targets, 0.0)
    if kind == "contrastive":
        return jnp.sum(unlike * jax.nn.relu(s - MARGIN) - like * s, axis=1)
    if kind == "multi_similarity":
        return _soft(like, -(s - CENTER), PULL) + _soft(unlike, s - CENTER, PUSH)
    pulling = jnp.sum(jnp.any(like > 0, axis=1))
    pull = _soft(like, PROXY_MARGIN - s, PROXY_SHARPNESS) * len(s) / jnp.maximum(pulling, 1)
    return PROXY_SHARPNESS * (pull + _soft(unlike, s + PROXY_MARGIN, PROXY_SHARPNESS))


def _soft(weights: Array, x: Array, sharpness: float) -> Array:
    """``log(1 + sum_v w exp(sharpness x)) / sharpness`` along rows."""
    logits = jnp.where(weights > 0, sharpness * x + jnp.log(jnp.where(weights > 0, weights, 1.0)), -jnp.inf)
    logits = jnp.concatenate([jnp.zeros_like(logits[:, :1]), logits], axis=1)
    return jax.nn.logsumexp(logits, axis=1) / sharpness
