"""A margin between what is right and what is wrong (Huang et al. 2024, Structure-CLIP, arXiv:2305.06152)."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array


def hinge_loss(
    a: Float[Array, "B D"], right: Float[Array, "B D"], wrong: Float[Array, "B D"], margin: float
) -> Float[Array, " B"]:
    """Of each row ``max(0, margin - a·right + a·wrong)``, float32.

    Rows are normalized, so that the products are cosines. Where the margin is kept, and at its edge, the derivative
    is 0.
    """
    return jax.nn.relu(margin - jnp.sum(a * (right - wrong), axis=-1))
