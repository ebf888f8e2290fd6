"""Losses on the correlations of features over a batch: the matrix is [D,D], a sum over rows, whatever the batch.

Barlow Twins (Zbontar et al. 2021, arXiv:2103.03230) and its regularizer by mixed inputs (Bandara et al. 2023,
arXiv:2312.02151). Under a mesh rows may lie anywhere: all that crosses devices are sums over rows.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array


def standardized(x: Float[Array, "B D"]) -> Float[Array, "B D"]:
    """Columns of mean 0 and unbiased variance 1, float32; a column of one value becomes zeros."""
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=0)
    variance = jnp.sum(x * x, axis=0) / (len(x) - 1)
    return x * jax.lax.rsqrt(jnp.maximum(variance, 1e-12))


def correlation(a: Float[Array, "B D"], b: Float[Array, "B E"]) -> Float[Array, "D E"]:
    """The mean over rows of the products of columns."""
    return jnp.matmul(a.T, b, precision=jax.lax.Precision.HIGHEST) / len(a)


def barlow_twins(a: Float[Array, "B D"], b: Float[Array, "B D"], redundancy: float) -> Float[Array, ""]:
    """The squared distance of the correlations of a and b from 1 on the diagonal, and from 0 elsewhere, the latter
    times ``redundancy`` (Zbontar et al., equation 1). Rows are as they leave the projector."""
    check(a, b)
    c = correlation(standardized(a), standardized(b))
    own = jnp.diagonal(c)
    return jnp.sum((1 - own) ** 2) + redundancy * (jnp.sum(c * c) - jnp.sum(own * own))


def mixed_twins(
    mixed: Float[Array, "B D"],
    a: Float[Array, "B D"],
    b: Float[Array, "B D"],
    share: Float[Array, " B"],
    partner: Int[Array, " B"],
) -> Float[Array, ""]:
    """How far the correlations of mixed inputs with a and with b are from those that mixed features would have.

    Row i of ``mixed`` comes of ``share[i]`` of input i of a and the rest of input ``partner[i]`` of b. Half the sum of
    squares of both differences of matrices (Bandara et al., section 3; the half is that of their ImageNet code).
    """
    check(a, b)
    check(mixed, a)
    a, b, mixed = standardized(a), standardized(b), standardized(mixed)
    expected = share[:, None] * a + (1 - share[:, None]) * b[partner]
    off = mixed - expected
    return 0.5 * (jnp.sum(correlation(off, a) ** 2) + jnp.sum(correlation(off, b) ** 2))


def check(a: Array, b: Array) -> None:
    """That both are rows of one shape, two at least. Raises ValueError."""
    if a.ndim != 2 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"correlations are those of two arrays [B,D] of one shape, B at least 2: {a.shape}, {b.shape}")
