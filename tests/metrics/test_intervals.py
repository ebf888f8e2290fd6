"""Check the coverage of intervals, and the p-values of paired tests against SciPy."""

import numpy as np
import pytest
from scipy import stats

from jaxrep.metrics.intervals import bootstrap_interval, paired_t_test, paired_test, sign_flip_test, unpaired_reason
from jaxrep.metrics.sample import Sample

DRAWS = {
    "normal": (lambda random: Sample(random.normal(3, 2, 60)), 3),
    "hits": (lambda random: Sample(random.random(300) < 0.3), 0.3),
    "median": (lambda random: Sample(random.normal(1, 1, 61), "median"), 1),
    "classes": (  # class k is right with probability k / 5
        lambda random: Sample(random.random(200) < CLASS / 5, "mean_of_means", groups=CLASS),
        0.5,
    ),
}
CLASS = np.repeat([1, 2, 3, 4], [20, 40, 60, 80])


@pytest.mark.parametrize("name", DRAWS)
def test_interval_coverage_is_95_percent(name):
    draw, truth = DRAWS[name]
    random = np.random.default_rng(0)
    found = [bootstrap_interval(draw(random), resamples=400, seed=i) for i in range(600)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    # Binomial error of 600 experiments is 0.9 points; percentile intervals of small samples cover some points less.
    assert 0.92 <= covered <= 0.975


@pytest.mark.parametrize("values", [stats.expon.rvs(size=80, random_state=1), np.arange(80) % 5 == 0], ids=str)
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_bootstrap_interval_equals_scipy(values, statistic):
    ours = bootstrap_interval(Sample(values, statistic), resamples=20_000)
    theirs = stats.bootstrap(
        (np.asarray(values, float),), getattr(np, statistic), method="percentile", n_resamples=20_000, rng=2
    ).confidence_interval
    # Both are random: the error of a quantile of 20,000 draws is about 2% of the interval's width.
    width = theirs.high - theirs.low
    np.testing.assert_allclose([ours.low, ours.high], [theirs.low, theirs.high], atol=0.06 * width)


def test_interval_of_few_distinct_values_equals_that_of_many():
    values = np.random.default_rng(3).integers(4, size=2_000).astype(float)
    few = bootstrap_interval(Sample(values), resamples=20_000)
    apart = bootstrap_interval(Sample(values + 1e-9 * np.arange(2_000)), resamples=20_000)  # no two are equal
    np.testing.assert_allclose([few.low, few.high], [apart.low, apart.high], atol=0.003)  # of a width of 0.1


def test_same_seed_gives_same_interval():
    sample = Sample(np.random.default_rng(0).random(50))
    assert bootstrap_interval(sample, seed=7) == bootstrap_interval(sample, seed=7)
    assert bootstrap_interval(sample, seed=7) != bootstrap_interval(sample, seed=8)


def test_interval_without_examples_is_nan():
    assert np.isnan(bootstrap_interval(Sample(np.array([]))).low)
    assert np.isnan(bootstrap_interval(Sample(np.array([1.0, np.nan]))).high)


def test_sign_flip_test_of_few_differences_is_exact():
    assert sign_flip_test(np.ones(5)) == 2 / 2**5
    assert sign_flip_test(np.array([0.1, 0.2, 0.3, 0.0])) == 2 / 2**3  # 0.1 + 0.2 is not 0.3; zero has no sign
    assert sign_flip_test(np.array([3.0, -1.0, 2.0])) == 4 / 2**3
    assert sign_flip_test(np.zeros(3)) == 1


def test_p_values_equal_scipy():
    random = np.random.default_rng(5)
    for size in (9, 40):
        a, b = random.normal(0.4, 1, size), random.normal(0, 1, size)
        theirs = stats.permutation_test(
            (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=20_000, rng=1
        )
        ours = paired_test(Sample(a), Sample(b), resamples=20_000)
        assert ours.p == pytest.approx(theirs.pvalue, abs=0.01)  # of 20,000 draws: 0.4 points, twice
        assert ours.difference == pytest.approx(theirs.statistic)


def test_paired_test_of_hits_equals_mcnemar():
    a = np.repeat([1, 0, 1, 0], [30, 14, 100, 100])
    b = np.repeat([0, 1, 1, 0], [30, 14, 100, 100])
    exact = stats.binomtest(14, 44, 0.5).pvalue
    assert paired_test(Sample(a), Sample(b), resamples=100_000).p == pytest.approx(
        exact, abs=0.002
    )  # 0.05 points, thrice


@pytest.mark.parametrize("statistic", ["mean", "median", "mean_of_means"])
def test_false_positive_rate_is_5_percent(statistic):
    random = np.random.default_rng(11)
    groups = np.arange(60) % 3 if statistic == "mean_of_means" else None
    found = []
    for seed in range(300):
        difficulty = random.normal(size=60)  # shared, as examples are
        a, b = (Sample(difficulty + random.normal(size=60), statistic, groups=groups) for _ in "ab")
        found.append(paired_test(a, b, resamples=300, seed=seed))
    rejected = np.mean([each.p <= 0.05 for each in found])
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.02 <= rejected <= 0.09  # 5% with a binomial error of 1.3 points
    assert 0.91 <= covered <= 0.985


def test_paired_test_detects_small_difference():
    random = np.random.default_rng(2)
    difficulty = 100 * random.normal(size=200)
    found = paired_test(Sample(difficulty + 1 + random.normal(size=200)), Sample(difficulty))
    assert found.p < 0.001
    assert 0 < found.low < 1 < found.high < 2


def test_paired_test_refuses_other_examples():
    hits = Sample(np.array([1, 0, 1]))
    with pytest.raises(ValueError, match="one is measured on 3 examples, the other on 2"):
        paired_test(hits, Sample(np.array([1, 0])))
    assert unpaired_reason(hits, Sample(np.array([1, 2, 3]), "median")) == "one is a mean, the other a median"
    a, b = (Sample(np.ones(3), "mean_of_means", groups=np.array(groups)) for groups in ([0, 1, 1], [0, 0, 1]))
    assert unpaired_reason(a, b) == "their examples lie in different groups"
    assert unpaired_reason(a, a) is None


def test_paired_t_test_equals_scipy():
    a, b = np.array([0.52, 0.55, 0.51, 0.56]), np.array([0.50, 0.52, 0.50, 0.51])
    assert paired_t_test(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert paired_t_test(a, a) == 1
    assert np.isnan(paired_t_test(a[:1], b[:1]))
