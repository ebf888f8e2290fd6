"""Whether a classifier's probabilities can be believed: the expected calibration error (Guo et al. 2017)."""

import numpy as np
from jaxtyping import Bool, Float


def softmax(logits: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
    """Probabilities float64, rows of sum 1."""
    logits = logits.astype(np.float64)
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)


def confidences(
    queries: Float[np.ndarray, "Q D"], classes: Float[np.ndarray, "K D"], scale: float, *, block_size: int = 1024
) -> Float[np.ndarray, " Q"]:
    """The probability of each query's likeliest class, of the softmax of ``scale`` times the dot products."""
    starts = range(0, len(queries), block_size)
    blocks = [softmax(scale * (queries[start : start + block_size] @ classes.T)).max(axis=1) for start in starts]
    return np.concatenate([np.empty(0), *blocks])


def expected_calibration_error(
    confidence: Float[np.ndarray, " N"], right: Bool[np.ndarray, " N"], bins: int = 15
) -> float:
    """The mean gap of accuracy and confidence over ``bins`` of equal width, weighted by what they hold, from 0 to 1.

    ``ECE = sum_b |B_b| / N |accuracy(B_b) - confidence(B_b)|``, bins (b/M, (b+1)/M] (Guo et al. 2017, On Calibration of
    Modern Neural Networks, eq. 3).
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(index, right - confidence, bins)
    return float(np.abs(gap).sum() / max(len(confidence), 1))
