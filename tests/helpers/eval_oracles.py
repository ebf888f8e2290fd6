"""Definitions written out, which several test files compare with."""


def calibration_by_loops(confidence, right, bins):
    """Guo et al. 2017, eq. 2 and 3: bin m holds the confidences in ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.sum() / len(confidence) * abs(right[inside].mean() - confidence[inside].mean())
    return total
