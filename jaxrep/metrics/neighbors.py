"""Measure a space by nearest neighbors: its intrinsic dimension, and the neighbors it shares with another space."""

import numpy as np
from jaxtyping import Float, Int

from jaxrep.errors import JaxrepError
from jaxrep.metrics.ranking import row_blocks


def nearest_neighbors(x: Float[np.ndarray, "N D"], k: int, *, block_size: int = 1024) -> Int[np.ndarray, "N k"]:
    """Return the k nearest other rows of each row by Euclidean distance; memory is ``block_size * N``."""
    if k >= len(x):
        raise JaxrepError(f"{k} neighbors per row need more than {k} rows, and there are {len(x)}")
    x = x.astype(np.float64)
    squares = np.einsum("nd,nd->n", x, x)
    nearest = np.empty((len(x), k), np.int64)
    for rows in row_blocks(len(x), block_size):
        # The square of the row itself is the same for all, and left out.
        distances = squares - 2 * (x[rows] @ x.T)
        np.fill_diagonal(distances[:, rows], np.inf)
        near = np.argpartition(distances, k - 1, axis=1)[:, :k]
        order = np.argsort(np.take_along_axis(distances, near, 1), axis=1, kind="stable")
        nearest[rows] = np.take_along_axis(near, order, 1)
    return nearest


def intrinsic_dimension(x: Float[np.ndarray, "N D"], *, kept: float = 0.9) -> float:
    """Estimate the intrinsic dimension d by TwoNN, from the distances of the first and second neighbors.

    Their ratio mu has the distribution F = 1 - mu^-d, so -log(1 - F) is a line in log mu with slope d, fitted through
    the origin to the share ``kept`` of smallest ratios (Facco et al. 2017, arXiv:1803.06992, Methods). Equal rows count
    once.
    """
    x = np.unique(x, axis=0).astype(np.float64)
    if len(x) < 3:
        raise JaxrepError(f"an intrinsic dimension needs three different embeddings, and there are {len(x)}")
    near = nearest_neighbors(x, 2)
    # Differences of squares would lose the digits of close neighbors.
    first, second = (np.linalg.norm(x - x[near[:, i]], axis=1) for i in (0, 1))
    mu = np.sort(np.log(np.maximum(first, second)) - np.log(np.minimum(first, second)))
    fitted = slice(0, max(int(kept * len(mu)), 1))
    share = np.arange(1, len(mu) + 1)[fitted] / len(mu)
    flat = float(np.sum(mu[fitted] ** 2))
    return float(np.sum(mu[fitted] * -np.log1p(-share))) / flat if flat else float("inf")


def mutual_neighbors(x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "N E"], k: int = 10) -> np.ndarray:
    """Return the share of the k nearest neighbors of each row that are the same in both spaces, float64 [N].

    For unit rows the mean is the alignment of Huh et al. 2024 (The Platonic Representation Hypothesis,
    arXiv:2405.07987, section 2).
    """
    in_x, in_y = nearest_neighbors(x, k), nearest_neighbors(y, k)
    return (in_x[:, :, None] == in_y[:, None, :]).any(axis=2).mean(axis=1)
