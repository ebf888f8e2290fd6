"""Judge a claim by the paired differences of a method and its baseline over several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

Word = Literal["seen", "reversed", "smaller than the row could show", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """Hold the 95% t-interval of the mean paired difference, and what it says of the claim."""

    mean: float
    half_width: float
    """Half of the interval's width: the smallest mean difference that these seeds could show."""
    word: Word


def judge(
    baseline: Sequence[float], method: Sequence[float], better: Literal["higher", "lower"], resolution: float
) -> Verdict:
    """Return the verdict on the claim that the method's metric is better, from one value per seed and side.

    The interval is Student's, of the differences seed by seed. The claim is *seen* if the whole interval is on the
    claimed side of 0, and *reversed* if it is on the other side. If the interval contains 0, the difference is *smaller
    than the row could show* where half of the interval is at most ``resolution``, and else *undecided*: the seeds
    differ too much. Raises ValueError: fewer than two seeds, sides of different length, or a value that is not finite.
    """
    a, b = np.asarray(baseline, np.float64), np.asarray(method, np.float64)
    if a.shape != b.shape or len(a) < 2 or not np.isfinite([a, b]).all():
        raise ValueError(f"two finite values per side at least, as many per side: got {baseline} and {method}")
    differences = b - a
    mean = float(differences.mean())
    half = float(special.stdtrit(len(a) - 1, 0.975) * differences.std(ddof=1) / np.sqrt(len(a)))
    claimed = mean if better == "higher" else -mean
    if claimed > half:
        word = "seen"
    elif claimed < -half:
        word = "reversed"
    else:
        word = "smaller than the row could show" if half <= resolution else "undecided"
    return Verdict(mean, half, word)
