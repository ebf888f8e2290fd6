"""Compute how many of the first n draws each source of a mixture has, in closed form and without history.

Each source in turn takes its share of the draws that the sources before it left, by rounding a straight line. So for
any n, the first n draws contain each source's share of n, with an error below the number of sources, and a source's
draws are numbered without gaps.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt64

UNIT = 2**32
"""Shares are multiples of 1 / UNIT, and so exact: no sum of floats decides which source is drawn."""


class Shares:
    """Assign draws to sources by weights [F,S]; row f applies from draw ``starts[f]`` on, and ``starts[0]`` is 0.

    ``rounding`` is added before a number of draws in multiples of 1 / UNIT is rounded down; below UNIT.
    """

    def __init__(self, starts: Sequence[int], weights: Float[np.ndarray, "F S"], rounding: int = UNIT // 2):
        self._starts, self._rounding = np.asarray(starts, np.uint64), np.uint64(rounding)
        self._ratios = np.stack([_ratios(row) for row in np.asarray(weights, np.float64)])
        self._before = np.zeros_like(self._ratios)  # draws of each source before each start
        for stage, (start, stop) in enumerate(itertools.pairwise(self._starts)):
            self._before[stage + 1] = self._before[stage] + self._counts(stop - start, stage)

    def __call__(self, draws: UInt64[np.ndarray, "B"]) -> tuple[Int[np.ndarray, "B"], UInt64[np.ndarray, "B"]]:
        """Return the source of each of ``draws`` (from 0), and how many earlier draws that source has."""
        stage = self._stage(draws)
        source, number = np.full(draws.shape, -1), np.zeros_like(draws)
        left = draws - self._starts[stage]
        for i, ratio in enumerate(self._ratios[stage].T):
            taken = self._share(left, ratio)
            taken_now = (source < 0) & (self._share(left + np.uint64(1), ratio) > taken)
            source[taken_now] = i
            number[taken_now] = (self._before[stage, i] + taken)[taken_now]
            left -= taken
        return source, number

    def counts(self, draws: int) -> UInt64[np.ndarray, "S"]:
        """Return how many of the first ``draws`` each source has."""
        stage = int(self._stage(np.uint64(draws)))
        return self._before[stage] + self._counts(np.uint64(draws) - self._starts[stage], stage)

    def _stage(self, draws: np.ndarray | np.uint64) -> np.ndarray:
        return np.searchsorted(self._starts, draws, side="right") - 1

    def _counts(self, draws: np.uint64, stage: int) -> UInt64[np.ndarray, "S"]:
        counts = np.zeros_like(self._ratios[stage])
        for i, ratio in enumerate(self._ratios[stage]):
            counts[i] = self._share(draws, ratio)
            draws = draws - counts[i]
        return counts

    def _share(self, draws: np.ndarray | np.uint64, ratio: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
        """Compute draws * ratio / UNIT, rounded; the product of 64 and 33 bits is split in halves that fit 64 bits."""
        high, low = draws >> np.uint64(32), draws & np.uint64(UNIT - 1)
        return high * ratio + ((low * ratio + self._rounding) >> np.uint64(32))


def _ratios(weights: Float[np.ndarray, "S"]) -> UInt64[np.ndarray, "S"]:
    """Return each source's share of the draws that the sources before it left; the last with a weight takes all."""
    rest = np.cumsum(weights[::-1])[::-1]
    last = np.flatnonzero(weights)[-1]
    shares = [
        UNIT if i == last else round(UNIT * w / r) if w else 0
        for i, (w, r) in enumerate(zip(weights, rest, strict=True))
    ]
    return np.array(shares, np.uint64)
