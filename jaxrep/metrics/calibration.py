"""Calibration of a classifier's probabilities: the expected calibration error (Guo et al. 2017)."""

import numpy as np
from jaxtyping import Bool, Float

from jaxrep.metrics.ranking import row_blocks


def softmax(logits: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    """Return probabilities in float64, rows of sum 1."""
    from scipy import special  # slow to import, and training needs it at evaluations only

    return special.softmax(logits.astype(np.float64), axis=1)


def confidences(
    queries: Float[np.ndarray, "Q D"], classes: Float[np.ndarray, "K D"], logit_scale: float, *, block_size: int = 1024
) -> Float[np.ndarray, " Q"]:
    """Return the highest class probability of each query: softmax of ``logit_scale`` times the dot products."""
    blocks = row_blocks(len(queries), block_size)
    highest = [softmax(logit_scale * (queries[rows] @ classes.T)).max(axis=1) for rows in blocks]
    return np.concatenate([np.empty(0), *highest])


def expected_calibration_error(
    confidence: Float[np.ndarray, " N"], correct: Bool[np.ndarray, " N"], bins: int = 15
) -> float:
    """Return the mean gap between accuracy and confidence over ``bins`` of equal width, weighted by their sizes.

    ``ECE = sum_b |B_b| / N |accuracy(B_b) - confidence(B_b)|``, from 0 to 1, with bins (b/M, (b+1)/M] (Guo et al. 2017,
    On Calibration of Modern Neural Networks, eq. 3).
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, correct - confidence, bins)
    return float(np.abs(gap).sum() / max(len(confidence), 1))
