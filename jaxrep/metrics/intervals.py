"""Bootstrap intervals of metrics, and paired tests of two models on the same examples or over seeds.

Efron & Tibshirani 1993, *An Introduction to the Bootstrap*: percentile intervals (chapter 13), permutation tests
(chapter 15). A draw of n of n values with replacement is a draw of the counts of the distinct values. Metrics of hits
and ranks have few distinct values, so a resample is one multinomial draw over those, for any number of examples.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxrep.metrics.sample import Sample

RESAMPLES = 5_000
"""Draws of a bootstrap or a permutation test: the tail of a 95% interval is exact to 0.2 percentage points."""
MAX_DRAWN = 4_000_000
"""Random numbers in memory at a time."""
MAX_DISTINCT = 1 / 16
"""Share of distinct values up to which one draw per value is faster than one draw per example."""
ROUNDING = 1e-9
"""Sums this close, relative to their size, are equal."""


@dataclass(frozen=True)
class Interval:
    """Hold the bounds of a metric on other examples of the same kind."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Hold the difference of a metric between two models on the same examples, with its interval and p-value."""

    difference: float
    low: float
    high: float
    p: float
    """Probability of a difference as large, in either direction, if the two models were equal."""


def bootstrap_interval(sample: Sample, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Return the percentile bootstrap interval of a metric; a mean of means is resampled within its groups.

    NaN if there is no example or a value is not a number.
    """
    return Interval(*_tails(_resampled(sample, resamples, np.random.default_rng(seed)), level))


def paired_test(a: Sample, b: Sample, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare ``a`` with ``b``: a percentile interval of ``a - b`` and the p-value of a permutation test.

    The interval resamples examples, each with its two values; the test exchanges the two values of examples.

    Raises ValueError: number, groups or statistic show that the two are not of the same examples.
    """
    if (reason := unpaired_reason(a, b)) is not None:
        raise ValueError(reason)
    random = np.random.default_rng(seed)
    if a.statistic == "median":
        drawn = _drawn(np.stack([a.values, b.values]), _median, resamples, random)
        low, high = _tails(drawn[0] - drawn[1], level)
        return Comparison(float(a) - float(b), low, high, _swap_medians(a.values, b.values, resamples, random))
    change = Sample(a.values - b.values, a.statistic, groups=a.groups)
    low, high = _tails(_resampled(change, resamples, random), level)
    return Comparison(float(change), low, high, sign_flip_test(_weights(a) * change.values, resamples, random))


def unpaired_reason(a: Sample, b: Sample) -> str | None:
    """Return why two metrics cannot be compared example by example, or None if they can."""
    if a.statistic != b.statistic:
        return f"one is a {a.statistic}, the other a {b.statistic}"
    if len(a.values) != len(b.values):
        return f"one is measured on {len(a.values)} examples, the other on {len(b.values)}"
    if a.groups is not None and b.groups is not None and not np.array_equal(a.groups, b.groups):
        return "their examples lie in different groups"
    return None


def paired_t_test(a: Float[np.ndarray, " S"], b: Float[np.ndarray, " S"]) -> float:
    """Return the two-sided p-value of the paired t-test of the means of a and b over S seeds (Student 1908).

    A permutation test of S pairs never gives less than 2 ** (1 - S), too much for a few seeds. 1 if all differences
    are zero; NaN with fewer than two seeds. (``scipy.stats`` has the same test, and takes a second to import.)
    """
    from scipy import special

    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if len(differences) < 2:
        return float("nan")
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    if error == 0:
        return 0.0 if differences.any() else 1.0
    return float(2 * special.stdtr(len(differences) - 1, -abs(differences.mean() / error)))


def sign_flip_test(
    differences: Float[np.ndarray, " n"], resamples: int = RESAMPLES, random: np.random.Generator | None = None
) -> float:
    """Return the two-sided p-value of the permutation test of a zero sum of paired differences.

    Under the hypothesis both signs of each difference are equally likely. A few differences are tested with all signs;
    else there are ``resamples`` draws, and the observed one counts as one more (Phipson & Smyth 2010, equation 2).
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
    drawn = ((2.0 * _coins(counts, draws, random) - counts) @ sizes for draws in _blocks(resamples, len(sizes)))
    return _p_value(observed, drawn, resamples)


def _swap_medians(a: np.ndarray, b: np.ndarray, resamples: int, random: np.random.Generator) -> float:
    """Return the two-sided p-value of the difference of medians if the values of random pairs are exchanged."""
    observed = abs(np.median(a) - np.median(b))
    if np.isnan(observed):
        return float("nan")
    swaps = (random.random((draws, len(a))) < 0.5 for draws in _blocks(resamples, len(a)))
    drawn = (np.median(np.where(swap, b, a), 1) - np.median(np.where(swap, a, b), 1) for swap in swaps)
    return _p_value(observed, drawn, resamples)


def _p_value(observed: float, drawn: Iterable[np.ndarray], resamples: int) -> float:
    """Return the share of the draws and the observed value itself that are at least as large, in either direction."""
    return (1 + sum(int(np.count_nonzero(np.abs(block) >= observed)) for block in drawn)) / (1 + resamples)


def _resampled(sample: Sample, resamples: int, random: np.random.Generator) -> Float[np.ndarray, " R"]:
    """Return the metric on R resamples of the examples; for a mean of means, within each group."""
    if sample.groups is None:
        return _drawn(sample.values[None], _median if sample.statistic == "median" else _mean, resamples, random)[0]
    groups = [sample.values[None, sample.groups == group] for group in np.unique(sample.groups)]
    return np.mean([_drawn(values, _mean, resamples, random)[0] for values in groups], axis=0)


def _drawn(
    values: Float[np.ndarray, "m n"], statistic: Callable[..., np.ndarray], resamples: int, random: np.random.Generator
) -> Float[np.ndarray, "m R"]:
    """Return the statistic of m columns on R resamples, the same ones for all columns."""
    if not values.size or np.isnan(values).any():
        return np.full((len(values), resamples), np.nan)
    distinct, counts = _distinct(values)
    blocks = (_drawn_counts(counts, draws, random) for draws in _blocks(resamples, len(counts)))
    return np.concatenate([[statistic(column, drawn) for column in distinct] for drawn in blocks], axis=1)


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return values along the last axis with their counts: the distinct ones if they are few, else all."""
    distinct, counts = np.unique(values, axis=-1, return_counts=True)
    few = len(counts) <= MAX_DISTINCT * values.shape[-1]
    return (distinct, counts) if few else (values, np.ones(values.shape[-1], np.int64))


def _drawn_counts(counts: np.ndarray, draws: int, random: np.random.Generator) -> Float[np.ndarray, "R k"]:
    """Return the count of each value in resamples of the same size."""
    total, k = counts.sum(), len(counts)
    if total > k:
        return random.multinomial(total, counts / total, size=draws).astype(np.float64)
    index = random.integers(k, size=(draws, k)) + k * np.arange(draws)[:, None]
    return np.bincount(index.ravel(), minlength=draws * k).reshape(draws, k).astype(np.float64)


def _coins(counts: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Return the heads among ``counts`` coins: integers [R,k]."""
    if counts.sum() > len(counts):
        return random.binomial(counts, 0.5, (draws, len(counts)))
    return random.integers(2, size=(draws, len(counts)), dtype=np.int8)


def _mean(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the means [R] of values [k] with counts [R,k]."""
    return counts @ values / counts[0].sum()


def _median(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the medians [R] of values [k] with counts [R,k]."""
    order = np.argsort(values)
    cumulative = np.cumsum(counts[:, order], axis=1)
    total = cumulative[0, -1]
    # The i-th of the sorted draws is the first value whose cumulative count is above i.
    low, high = (np.argmax(cumulative > i, axis=1) for i in ((total - 1) // 2, total // 2))
    return (values[order][low] + values[order][high]) / 2


def _weights(sample: Sample) -> np.ndarray:
    """Return the weight of each example in the mean, or in the mean of means."""
    if sample.groups is None:
        return np.full(len(sample.values), 1 / max(len(sample.values), 1))
    _, group, sizes = np.unique(sample.groups, return_inverse=True, return_counts=True)
    return 1 / (len(sizes) * sizes[group])


def _tails(drawn: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _blocks(rows: int, width: int) -> Iterator[int]:
    """Yield numbers of rows that sum to ``rows``, each small enough for the memory."""
    size = max(MAX_DRAWN // max(width, 1), 1)
    for start in range(0, rows, size):
        yield min(size, rows - start)
