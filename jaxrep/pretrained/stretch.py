"""Learned positions for longer texts (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378, section 3.2)."""

import numpy as np


def stretch_positions(positions: np.ndarray, length: int, keep: int) -> np.ndarray:
    """Positions [L,D] -> [length,D], float32: the first ``keep``, which are well trained, stay, the others are
    stretched.

    Between old positions lie linear mixtures of two; after the last one the line through the last two goes on. From 77
    to 248 with 20 kept, each step of one becomes four steps of a quarter.

    Raises ValueError: fewer than two positions would be stretched, or the length does not grow.
    """
    old = len(positions)
    if not 0 <= keep <= old - 2 or length <= old:
        raise ValueError(f"{old} positions of which the first {keep} stay cannot be stretched to {length}")
    places = np.arange(length, dtype=np.float64)
    places[keep:] = keep + (places[keep:] - keep) * (old - keep) / (length - keep)
    left = np.minimum(places.astype(int), old - 2)
    share = (places - left)[:, None]
    x = positions.astype(np.float64)
    return ((1 - share) * x[left] + share * x[left + 1]).astype(np.float32)
