"""What nearest neighbors say of a space: how many dimensions it has, and whether another has the same neighbors."""

import numpy as np
from jaxtyping import Float, Int

from jaxrep.errors import JaxrepError

BLOCK_SIZE = 1024


def nearest_euclidean(x: Float[np.ndarray, "N D"], k: int, *, block_size: int = BLOCK_SIZE) -> Int[np.ndarray, "N k"]:
    """Each row's k nearest other rows by Euclidean distance, the nearest first; memory is ``block_size * N``."""
    if k >= len(x):
        raise JaxrepError(f"{k} neighbors of a row are asked for among {len(x)} rows: there are {len(x) - 1} others")
    x = x.astype(np.float64)
    squares = np.einsum("nd,nd->n", x, x)
    found = np.empty((len(x), k), np.int64)
    for start in range(0, len(x), block_size):
        rows = np.arange(start, min(start + block_size, len(x)))
        # The row's own square is the same for all, and left out.
        distances = squares - 2 * (x[rows] @ x.T)
        distances[np.arange(len(rows)), rows] = np.inf
        near = np.argpartition(distances, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(distances, near, 1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(near, order, 1)
    return found


def intrinsic_dimension(x: Float[np.ndarray, "N D"], *, kept: float = 0.9) -> float:
    """TwoNN: the dimension that explains how much farther second neighbors are than first ones.

    The ratio mu of both distances has the distribution F = 1 - mu^-d, so -log(1 - F) is a line in log mu whose slope,
    fitted through the origin to the share ``kept`` of smallest ratios, is d (Facco et al. 2017, arXiv:1803.06992,
    Methods). Equal rows count once.
    """
    x = np.unique(x, axis=0).astype(np.float64)
    if len(x) < 3:
        raise JaxrepError(f"an intrinsic dimension needs three different embeddings, and there are {len(x)}")
    near = nearest_euclidean(x, 2)
    # From differences: those of squares have lost the digits of close neighbors.
    first, second = (np.linalg.norm(x - x[near[:, i]], axis=1) for i in (0, 1))
    mu = np.sort(np.log(np.maximum(first, second)) - np.log(np.minimum(first, second)))
    fitted = slice(0, max(int(kept * len(mu)), 1))
    share = np.arange(1, len(mu) + 1)[fitted] / len(mu)
    line = -np.log1p(-share)
    flat = float(np.sum(mu[fitted] ** 2))
    return float(np.sum(mu[fitted] * line)) / flat if flat else float("inf")


def mutual_neighbors(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"], k: int = 10) -> np.ndarray:
    """Share of each row's k nearest neighbors in one space that are so in the other as well, float64 [N].

    Its mean is the alignment of Huh et al. 2024 (The Platonic Representation Hypothesis, arXiv:2405.07987, section 2);
    of unit rows, for that is what they compare.
    """
    one, other = nearest_euclidean(x, k), nearest_euclidean(y, k)
    return (one[:, :, None] == other[:, None, :]).any(axis=2).mean(axis=1)
