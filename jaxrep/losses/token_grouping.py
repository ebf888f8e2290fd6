"""Group the tokens of an image, one group per text that describes a part of it."""

import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array


def group_tokens(
    tokens: Float[Array, "B N D"], texts: Float[Array, "B V D"], threshold: float = 0.0
) -> Float[Array, "B V D"]:
    """Return for each text the mean of the tokens of its image, weighted by their similarity to the text.

    Zheng et al. 2024, DreamLIP, arXiv:2403.17007, as in the released code, with the gradient through the weights.
    Cosines with the tokens are scaled to run from 0 to 1, those below ``threshold`` become 0, and the rest is divided
    by its sum.

    Args:
        tokens, texts: unit rows.
    """
    cosines = jnp.einsum("bvd,bnd->bvn", texts, tokens)
    low, high = (bound(cosines, axis=-1, keepdims=True) for bound in (jnp.min, jnp.max))
    weights = (cosines - low) / jnp.maximum(high - low, 1e-10)
    weights = jnp.where(weights < threshold, 0.0, weights)
    weights /= jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-10)
    return jnp.einsum("bvn,bnd->bvd", weights, tokens)
