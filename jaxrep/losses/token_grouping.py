"""Tokens of an image in groups, one for each text that describes a part of it."""

import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array


def group_tokens(
    tokens: Float[Array, "B N D"], texts: Float[Array, "B V D"], threshold: float = 0.0
) -> Float[Array, "B V D"]:
    """For each text the mean of the tokens of its own image, weighted by how alike they are (Zheng et al. 2024,
    DreamLIP, arXiv:2403.17007, as its released code has it, with the gradient through the weights).

    Cosines with the tokens are scaled to run from 0 to 1, those below ``threshold`` become 0, and the rest is divided
    by its sum.

    Args:
        tokens, texts: unit rows.
    """
    cosines = jnp.einsum("bvd,bnd->bvn", texts, tokens)
    low, high = (bound(cosines, axis=-1, keepdims=True) for bound in (jnp.min, jnp.max))
    shares = (cosines - low) / jnp.maximum(high - low, 1e-10)
    shares = jnp.where(shares < threshold, 0.0, shares)
    shares /= jnp.maximum(jnp.sum(shares, axis=-1, keepdims=True), 1e-10)
    return jnp.einsum("bvn,bnd->bvd", shares, tokens)
