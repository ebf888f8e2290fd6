"""Measure the geometry of embeddings: collapse, the modality gap, and the similarity of two spaces.

The first two functions are traced in training too (``step/embedding_metrics.py``) and take float32 arrays of JAX; the
others run on the host in float64. Rows are embeddings. Neighbors are in ``neighbors.py``; alignment and uniformity,
which are losses too, in ``losses/geometry.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pca import eigen
from jaxrep.metrics.ranking import row_blocks

RIDGE = 1e-3
"""Ridge of the linear classifier, in units of the mean variance of a direction: needed for fewer than D rows."""


def modality_gap(a: Float[Array, "B D"], b: Float[Array, "C D"]) -> Float[Array, ""]:
    """Return the distance of the two means (Liang et al. 2022, arXiv:2203.02053, section 4.2)."""
    return jnp.linalg.norm(a.mean(0) - b.mean(0))


def effective_rank(x: Float[Array, "B D"]) -> Float[Array, ""]:
    """Return RankMe: exp of the entropy of the singular values, scaled to sum 1 (Garrido et al. 2023, section 3).

    The values come from the D x D Gram matrix. Squaring loses half the digits, so eigenvalues within its rounding error
    count as zero: otherwise many directions of pure noise would count.
    """
    _, eigenvalues = eigen(jnp.matmul(x.T, x, precision=jax.lax.Precision.HIGHEST))
    noise = eigenvalues[-1] * x.shape[1] * jnp.finfo(jnp.float32).eps
    singular = jnp.sqrt(jnp.where(eigenvalues > noise, eigenvalues, 0))
    share = singular / singular.sum()
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))


# On the host ----------------------------------------------------------------------------------------------------------


def mean_cosine(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"] | None = None) -> float:
    """Return the mean cosine of unit rows i and j, i and j different; with ``b``, of row i of a and row j of b.

    For one space it is the anisotropy: 0 for uniform directions, 1 if all are equal (Ethayarajh 2019,
    arXiv:1909.00512, section 3.2).
    """
    a, b = a.astype(np.float64), (a if b is None else b).astype(np.float64)
    n = len(a)
    return float((a.sum(0) @ b.sum(0) - np.sum(a * b)) / max(n * (n - 1), 1))


def modality_gap_shares(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> dict[str, float]:
    """Return the share of the modality gap in the variance and in the distance of pairs.

    Returns:
        - ``gap_of_variance``: share of the variance of all rows of both modalities that lies between their means;
        - ``gap_of_alignment``: share of the mean squared distance of pairs that the means account for, as
          ``mean |a_i - b_i|^2 = |mean a - mean b|^2 + mean |(a_i - mean a) - (b_i - mean b)|^2``: 1 if a shift of one
          modality makes pairs equal, 0 if it does not help.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    squared = np.sum((a.mean(0) - b.mean(0)) ** 2)
    within = (np.sum(a.var(0)) + np.sum(b.var(0))) / 2
    distance = np.mean(np.sum((a - b) ** 2, axis=1))
    # The variance of the means of two groups of equal size is a quarter of their squared distance.
    return {"gap_of_variance": _ratio(squared / 4, within + squared / 4), "gap_of_alignment": _ratio(squared, distance)}


def linear_separability(a: Float[np.ndarray, "N D"], b: Float[np.ndarray, "N D"]) -> np.ndarray:
    """Return for each row whether a linear classifier predicts its modality, bool [2N].

    The classifier, Fisher's discriminant, is fitted to every other pair and tested on the other half, and the reverse.
    The mean is 1 if a plane separates the modalities, and 1/2 without a gap (Fahim et al. 2024, section 3).
    """
    correct = np.empty((2, len(a)), bool)
    halves = slice(0, None, 2), slice(1, None, 2)
    for fitted, held in (halves, halves[::-1]):
        x, y = a[fitted].astype(np.float64), b[fitted].astype(np.float64)
        midpoint = (x.mean(0) + y.mean(0)) / 2
        covariance = (np.cov(x.T, bias=True) + np.cov(y.T, bias=True)) / 2
        covariance += (RIDGE * np.trace(covariance) / len(x.T) + np.finfo(np.float64).tiny) * np.eye(len(x.T))
        normal = np.linalg.solve(covariance, x.mean(0) - y.mean(0))
        correct[0, held], correct[1, held] = (a[held] - midpoint) @ normal > 0, (b[held] - midpoint) @ normal < 0
    return correct.ravel()


def linear_cka(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"]) -> float:
    """Return the similarity of two spaces with paired rows, from 0 to 1, invariant to rotations and scale.

    ``|Y'X|^2 / (|X'X| |Y'Y|)`` in Frobenius norms, of centered columns (Kornblith et al. 2019, arXiv:1905.00414,
    equation 3 and section 3.3).
    """
    return _ratio(_cross(x, y) ** 2, _cross(x, x) * _cross(y, y))


def _cross(x: np.ndarray, y: np.ndarray, block_size: int = 8192) -> float:
    """Return the Frobenius norm of the D x E products of centered columns, in blocks of rows."""
    means = [z.mean(0, dtype=np.float64) for z in (x, y)]
    total = np.zeros((x.shape[1], y.shape[1]))
    for rows in row_blocks(len(x), block_size):
        total += (x[rows] - means[0]).T @ (y[rows] - means[1])
    return float(np.linalg.norm(total))


def _ratio(part: float, whole: float) -> float:
    """Return the share of a part; NaN if the whole is 0."""
    return float(part / whole) if whole > 0 else float("nan")
