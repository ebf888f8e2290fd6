"""How sure a metric is: bootstrap intervals, and paired tests of two models on the same examples or over seeds.

Efron & Tibshirani 1993, *An Introduction to the Bootstrap*: percentile intervals (chapter 13), permutation tests
(chapter 15). To draw n of n values with replacement is to draw how often each distinct value occurs: metrics of hits
and ranks have few of them, so a resample is one multinomial draw over those, however many the examples.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxrep.metrics.sample import Sample

RESAMPLES = 5_000
"""Draws of a bootstrap or a permutation test: the tail of a 95% interval is met to 0.2 percentage points."""
AT_ONCE = 4_000_000
"""Numbers held together while drawing."""
FEW = 1 / 16
"""Share of distinct values up to which one draw a value is quicker than one draw an example."""
ROUNDING = 1e-9
"""Sums this close, relative to their size, are equal."""


@dataclass(frozen=True)
class Interval:
    """Where the metric would lie on other examples of the same kind."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A metric of one model less that of another, on the same examples."""

    difference: float
    low: float
    high: float
    p: float
    """Probability of a difference as large, in either direction, were the two models alike."""


def interval(sample: Sample, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of a metric over its examples; a mean of means is resampled within its groups.

    NaN where there is no example or a value is not a number.
    """
    return Interval(*_tails(_resampled(sample, resamples, np.random.default_rng(seed)), level))


def compare(a: Sample, b: Sample, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """``a`` less ``b``, with the percentile interval of resampled examples (each keeps its two values) and the p-value
    of a permutation test (the two values of each example change places).

    Raises ValueError: the two are not measured on the same examples, as far as their number, groups and statistic tell.
    """
    if (why := unpaired(a, b)) is not None:
        raise ValueError(why)
    random = np.random.default_rng(seed)
    if a.statistic == "median":
        drawn = _drawn(np.stack([a.values, b.values]), _median, resamples, random)
        low, high = _tails(drawn[0] - drawn[1], level)
        return Comparison(float(a) - float(b), low, high, _swap_medians(a.values, b.values, resamples, random))
    change = Sample(a.values - b.values, a.statistic, groups=a.groups)
    low, high = _tails(_resampled(change, resamples, random), level)
    return Comparison(float(change), low, high, sign_flips(_weights(a) * change.values, resamples, random))


def unpaired(a: Sample, b: Sample) -> str | None:
    """Why two metrics cannot be compared example by example, or None where they can."""
    if a.statistic != b.statistic:
        return f"one is a {a.statistic}, the other a {b.statistic}"
    if len(a.values) != len(b.values):
        return f"one is measured on {len(a.values)} examples, the other on {len(b.values)}"
    if a.groups is not None and b.groups is not None and not np.array_equal(a.groups, b.groups):
        return "their examples lie in different groups"
    return None


def over_seeds(a: Float[np.ndarray, " S"], b: Float[np.ndarray, " S"]) -> float:
    """p-value, two-sided, of the paired t-test: that the mean of a - b over seeds is not zero (Student 1908).

    A permutation of S pairs never gives less than 2 ** (1 - S), so with a handful of seeds it could not tell anything.
    1 where all differences are zero; NaN with fewer than two seeds.
    """
    from scipy import special

    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if len(differences) < 2:
        return float("nan")
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    if error == 0:
        return 0.0 if differences.any() else 1.0
    return float(2 * special.stdtr(len(differences) - 1, -abs(differences.mean() / error)))


def sign_flips(
    differences: Float[np.ndarray, " n"], resamples: int = RESAMPLES, random: np.random.Generator | None = None
) -> float:
    """p-value, two-sided, of the permutation test that the sum of paired differences is not zero.

    Under the hypothesis each difference has either sign alike. All signs are tried where there are few of them; else
    ``resamples`` draws, and the observed one counts as one more (Phipson & Smyth 2010, equation 2).
    """
    if np.isnan(differences).any():
        return float("nan")
    sizes = np.abs(differences[differences != 0])
    observed = abs(differences.sum()) - ROUNDING * sizes.sum()
    if len(sizes) <= math.log2(resamples):
        signs = np.array(list(itertools.product((-1, 1), repeat=len(sizes))))
        return float(np.mean(np.abs(signs @ sizes) >= observed))
    random = random or np.random.default_rng(0)
    sizes, counts = _distinct(sizes)
    as_large = 0
    for draws in _blocks(resamples, len(sizes)):
        positive = _coins(counts, draws, random)
        as_large += np.count_nonzero(np.abs((2.0 * positive - counts) @ sizes) >= observed)
    return (1 + int(as_large)) / (1 + resamples)


def _swap_medians(a: np.ndarray, b: np.ndarray, resamples: int, random: np.random.Generator) -> float:
    """p-value, two-sided, of the difference of medians where the values of each pair change places at random."""
    observed = abs(np.median(a) - np.median(b))
    if np.isnan(observed):
        return float("nan")
    as_large = 0
    for draws in _blocks(resamples, len(a)):
        swap = random.random((draws, len(a))) < 0.5
        one, other = np.where(swap, b, a), np.where(swap, a, b)
        as_large += np.count_nonzero(np.abs(np.median(one, 1) - np.median(other, 1)) >= observed)
    return (1 + int(as_large)) / (1 + resamples)


def _resampled(sample: Sample, resamples: int, random: np.random.Generator) -> Float[np.ndarray, " R"]:
    """The metric on examples drawn anew, R times; of a mean of means, within each group."""
    if sample.groups is None:
        return _drawn(sample.values[None], _median if sample.statistic == "median" else _mean, resamples, random)[0]
    groups = [sample.values[None, sample.groups == group] for group in np.unique(sample.groups)]
    return np.mean([_drawn(values, _mean, resamples, random)[0] for values in groups], axis=0)


def _drawn(
    values: Float[np.ndarray, "m n"], statistic: Callable[..., np.ndarray], resamples: int, random: np.random.Generator
) -> Float[np.ndarray, "m R"]:
    """The statistic of m columns on examples drawn anew, the same ones for all columns."""
    if not values.size or np.isnan(values).any():
        return np.full((len(values), resamples), np.nan)
    distinct, counts = _distinct(values)
    blocks = []
    for draws in _blocks(resamples, len(counts)):
        times = _times(counts, draws, random)
        blocks.append([statistic(column, times) for column in distinct])
    return np.concatenate(blocks, axis=1)


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values along the last axis with how often each occurs: the distinct ones where they are few, else all."""
    distinct, counts = np.unique(values, axis=-1, return_counts=True)
    few = len(counts) <= FEW * values.shape[-1]
    return (distinct, counts) if few else (values, np.ones(values.shape[-1], np.int64))


def _times(counts: np.ndarray, draws: int, random: np.random.Generator) -> Float[np.ndarray, "R k"]:
    """How often each value occurs among as many as there are, drawn with replacement."""
    total, k = counts.sum(), len(counts)
    if total > k:
        return random.multinomial(total, counts / total, size=draws).astype(np.float64)
    places = random.integers(k, size=(draws, k)) + k * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * k).reshape(draws, k).astype(np.float64)


def _coins(counts: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Heads among so many coins: integers [R,k]."""
    if counts.sum() > len(counts):
        return random.binomial(counts, 0.5, (draws, len(counts)))
    return random.integers(2, size=(draws, len(counts)), dtype=np.int8)


def _mean(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Means [R] of values [k] of which each occurs so many times [R,k]."""
    return times @ values / times[0].sum()


def _median(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Medians [R] of values [k] of which each occurs so many times [R,k]."""
    order = np.argsort(values)
    upto = np.cumsum(times[:, order], axis=1)
    total = upto[0, -1]
    # The value at place i of the sorted draws is the first one by which more than i of them are reached.
    low, high = (np.argmax(upto > place, axis=1) for place in ((total - 1) // 2, total // 2))
    return (values[order][low] + values[order][high]) / 2


def _weights(sample: Sample) -> np.ndarray:
    """What each example weighs in the mean, or in the mean of means."""
    if sample.groups is None:
        return np.full(len(sample.values), 1 / max(len(sample.values), 1))
    _, group, sizes = np.unique(sample.groups, return_inverse=True, return_counts=True)
    return 1 / (len(sizes) * sizes[group])


def _tails(drawn: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _blocks(rows: int, width: int) -> Iterator[int]:
    """Numbers of rows that sum up to ``rows``, each small enough for the memory."""
    size = max(AT_ONCE // max(width, 1), 1)
    for start in range(0, rows, size):
        yield min(size, rows - start)
