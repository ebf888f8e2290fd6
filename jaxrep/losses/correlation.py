"""Losses on the correlations of features over a batch: the matrix is [D,D] for any number of rows.

Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230) and its regularizer by mixed inputs (Bandara et al. 2023,
arXiv:2312.02151). On a mesh, only sums over rows cross devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array


def standardized(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Scale columns to mean 0 and unbiased variance 1, float32; a constant column becomes zeros."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=0)
    variance = jnp.sum(x * x, axis=0) / (len(x) - 1)
    return x * jax.lax.rsqrt(jnp.maximum(variance, 1e-12))


def correlation(a: Float[Array, "B D"], b: Float[Array, "B E"]) -> Float[Array, "D E"]:
    """Return the mean over rows of the products of columns."""
    return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST) / len(a)


def barlow_twins(a: Float[Array, "B D"], b: Float[Array, "B D"], redundancy: float) -> Float[Array, ""]:
    """Return the squared distance of the correlations of a and b from 1 on the diagonal and from 0 elsewhere.

    The latter is multiplied by ``redundancy`` (Zbontar et al., equation 1). Rows are the projector's outputs.
    """
    check_features(a, b)
    c = correlation(standardized(a), standardized(b))
    diagonal = jnp.diagonal(c)
    return jnp.sum((1 - diagonal) ** 2) + redundancy * (jnp.sum(c * c) - jnp.sum(diagonal * diagonal))


def mixed_twins(
    mixed: Float[Array, "B D"],
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    share: Float[Array, " B"],
    partner: Int[Array, " B"],
) -> Float[Array, ""]:
    """Return the distance of the correlations of mixed inputs with a and b from those of mixed features.

    Row i of ``mixed`` is the feature of ``share[i]`` of input i of a and the rest of input ``partner[i]`` of b. The
    loss is half the sum of squares of both differences (Bandara et al., section 3; the half is from their ImageNet
    code).
    """
    check_features(a, b)
    check_features(mixed, a)
    a, b, mixed = standardized(a), standardized(b), standardized(mixed)
    error = mixed - (share[:, None] * a + (1 - share[:, None]) * b[partner])
    return 0.5 * (jnp.sum(correlation(error, a) ** 2) + jnp.sum(correlation(error, b) ** 2))


def check_features(a: Array, b: Array) -> None:
    """Check that both are rows of one shape, at least two. Raises ValueError."""
    if a.ndim != 2 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"correlations are those of two arrays [B,D] of one shape, B at least 2: {a.shape}, {b.shape}")
