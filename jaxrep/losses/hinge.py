"""A margin between positive and negative cosines (Huang et al. 2024, Structure-CLIP, arXiv:2305.06152)."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array


def hinge_loss(
    a: Float[Array, "B D"], positive: Float[Array, "B D"], negative: Float[Array, "B D"], margin: float
) -> Float[Array, " B"]:
    """Return ``max(0, margin - a·positive + a·negative)`` of each row, float32.

    Rows are normalized. The derivative is 0 where the margin is reached, and at its edge.
    """
    return jax.nn.relu(margin - jnp.sum(a * (positive - negative), axis=-1))
