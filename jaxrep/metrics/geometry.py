"""How embeddings lie in their space: collapse, spread, towers apart, two spaces alike. Pure functions.

The first two are traced in training as well (``train/health.py``) and are for float32 arrays of JAX; the others run on
the host in float64. Rows are embeddings; where it says unit rows, of length 1. Neighbors are in ``neighbors.py``,
alignment and uniformity, which are losses too, in ``losses/geometry.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pca import eigen

RIDGE = 1e-3
"""Of the linear classifier, in units of the mean variance of a direction: it stands where rows are fewer than D."""


def modality_gap(a: Float[Array, "B D"], b: Float[Array, "C D"]) -> Float[Array, ""]:
    """Distance of the two means (Liang et al. 2022, arXiv:2203.02053, section 4.2)."""
    return jnp.linalg.norm(a.mean(0) - b.mean(0))


def effective_rank(x: Float[Array, "B D"]) -> Float[Array, ""]:
    """RankMe: exp of the entropy of the singular values, scaled to sum one (Garrido et al. 2023, section 3).

    The values come from the D x D Gram matrix. Squaring loses half the digits, so eigenvalues within its rounding error
    are taken for zero: otherwise many directions of pure noise would count.
    """
    _, eigenvalues = eigen(jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST))
    noise = eigenvalues[-1] * x.shape[1] * jnp.finfo(jnp.float32).eps
    singular = jnp.sqrt(jnp.where(eigenvalues > noise, eigenvalues, 0))
    share = singular / singular.sum()
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))


# On the host ----------------------------------------------------------------------------------------------------------


def mean_cosine(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"] | None = None) -> float:
    """Mean cosine of unit rows i and j, i and j different; with ``b``, of row i of a and row j of b.

    Of one space it is its anisotropy: 0 where directions are even, 1 where all are one (Ethayarajh 2019,
    arXiv:1909.00512, section 3.2).
    """
    a, b = a.astype(np.float64), (a if b is None else b).astype(np.float64)
    n = len(a)
    return float((a.sum(0) @ b.sum(0) - np.sum(a * b)) / max(n * (n - 1), 1))


def gap_parts(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> dict[str, float]:
    """What the modality gap is a part of.

    Returns:
        - ``gap_of_variance``: the share of the variance of both modalities together that lies between their means;
        - ``gap_of_alignment``: the share of the mean squared distance of pairs that the means account for, as
          ``mean |a_i - b_i|^2 = |mean a - mean b|^2 + mean |(a_i - mean a) - (b_i - mean b)|^2``: 1 where moving one
          modality would make pairs equal, 0 where it would not help.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    squared = np.sum((a.mean(0) - b.mean(0)) ** 2)
    within = (np.sum(a.var(0)) + np.sum(b.var(0))) / 2
    apart = np.mean(np.sum((a - b) ** 2, axis=1))
    # Of two groups of equal size, the variance of their means is a quarter of the squared distance.
    return {
        "gap_of_variance": float(_ratio(squared / 4, within + squared / 4)),
        "gap_of_alignment": float(_ratio(squared, apart)),
    }


def separability(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> np.ndarray:
    """bool [2N]: whether a linear classifier, fitted to every other pair, tells the modality of each row of the other
    half and the reverse; the mean is 1 where a plane parts them, and 1/2 without a gap (Fahim et al. 2024, section 3).

    The classifier is Fisher's discriminant.
    """
    found = np.empty((2, len(a)), bool)
    for fitted, held in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        one, other = a[fitted].astype(np.float64), b[fitted].astype(np.float64)
        middle = (one.mean(0) + other.mean(0)) / 2
        spread = (np.cov(one.T, bias=True) + np.cov(other.T, bias=True)) / 2
        spread += (RIDGE * np.trace(spread) / len(spread) + np.finfo(np.float64).tiny) * np.eye(len(spread))
        normal = np.linalg.solve(spread, one.mean(0) - other.mean(0))
        found[0, held], found[1, held] = (a[held] - middle) @ normal > 0, (b[held] - middle) @ normal < 0
    return found.ravel()


def linear_cka(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]) -> float:
    """Similarity of two spaces whose rows belong together, from 0 to 1; rotations and one scale do not matter.

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` in Frobenius norms, of centerd columns (Kornblith et al. 2019, arXiv:1905.00414,
    equation 3 and section 3.3).
    """
    return float(_ratio(_cross(x, y) ** 2, _cross(x, x) * _cross(y, y)))


def _cross(x: np.ndarray, y: np.ndarray, block_size: int = 8192) -> float:
    """Frobenius norm of the D x E products of centerd columns, in blocks of rows."""
    means = [z.mean(0, dtype=np.float64) for z in (x, y)]
    total = np.zeros((x.shape[1], y.shape[1]))
    for start in range(0, len(x), block_size):
        left, right = (z[start : start + block_size] - mean for z, mean in zip((x, y), means, strict=True))
        total += left.T @ right
    return float(np.linalg.norm(total))


def _ratio(part: float, whole: float) -> float:
    """A share; NaN where there is nothing to have a share of."""
    return part / whole if whole > 0 else float("nan")
