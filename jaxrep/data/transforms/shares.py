"""How many of the first n draws each source of a mixture has had: a closed form, so that no history is kept.

Draws are dealt out evenly: one source after the other takes its share of what those before it left, by rounding a
straight line. The first n draws hold each source's share of n, up to a number below that of the sources, at any n; and
the next draw of a source is the one that it counts.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt64

UNIT = 2**32
"""Shares are multiples of 1 / UNIT, and so exact: no sum of floats decides who is drawn."""


class Shares:
    """Deals out draws by weights [F,S], each row of them from its place in ``starts`` [F] on; the first starts at 0."""

    def __init__(self, starts: Sequence[int], weights: Float[np.ndarray, "F S"]):
        self._starts = np.asarray(starts, np.uint64)
        self._ratios = np.stack([_ratios(row) for row in np.asarray(weights, np.float64)])
        self._before = np.zeros_like(self._ratios)  # draws of each source before each start
        for stage, (start, stop) in enumerate(itertools.pairwise(self._starts)):
            self._before[stage + 1] = self._before[stage] + _counts(stop - start, self._ratios[stage])

    def __call__(self, draws: UInt64[np.ndarray, "B"]) -> tuple[Int[np.ndarray, "B"], UInt64[np.ndarray, "B"]]:
        """(source, how many draws it had before) of each of ``draws``, which count from 0."""
        stage = self._stage(draws)
        source, number = np.full(draws.shape, -1), np.zeros_like(draws)
        left = draws - self._starts[stage]
        for i, ratio in enumerate(self._ratios[stage].T):
            taken = _share(left, ratio)
            here = (source < 0) & (_share(left + np.uint64(1), ratio) > taken)
            source[here] = i
            number[here] = (self._before[stage, i] + taken)[here]
            left -= taken
        return source, number

    def counts(self, draws: int) -> UInt64[np.ndarray, "S"]:
        """How many of the first ``draws`` each source has."""
        stage = int(self._stage(np.uint64(draws)))
        return self._before[stage] + _counts(np.uint64(draws) - self._starts[stage], self._ratios[stage])

    def _stage(self, draws: np.ndarray | np.uint64) -> np.ndarray:
        return np.searchsorted(self._starts, draws, side="right") - 1


def _ratios(weights: Float[np.ndarray, "S"]) -> UInt64[np.ndarray, "S"]:
    """Of what the sources before it left, each one's share; the last that has a weight takes all."""
    rest = np.cumsum(weights[::-1])[::-1]
    last = np.flatnonzero(weights)[-1]
    shares = [
        UNIT if i == last else round(UNIT * w / r) if w else 0
        for i, (w, r) in enumerate(zip(weights, rest, strict=True))
    ]
    return np.array(shares, np.uint64)


def _counts(draws: np.uint64, ratios: UInt64[np.ndarray, "S"]) -> UInt64[np.ndarray, "S"]:
    counts = np.zeros_like(ratios)
    for i, ratio in enumerate(ratios):
        counts[i] = _share(draws, ratio)
        draws = draws - counts[i]
    return counts


def _share(draws: np.ndarray | np.uint64, ratio: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
    """draws * ratio / UNIT, rounded; the product of 64 and 33 bits in two halves that each fit 64."""
    high, low = draws >> np.uint64(32), draws & np.uint64(UNIT - 1)
    return high * ratio + ((low * ratio + np.uint64(UNIT // 2)) >> np.uint64(32))
