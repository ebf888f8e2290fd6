"""The term of bags of words sums kinds of crops and averages levels; its perplexities are those of NumPy."""

import numpy as np

from jaxrep.batch import StepContext
from jaxrep.objectives import BagPrediction

B, D, K = 5, 4, 6
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(2, K, D))
BAGS = RNG.dirichlet(np.full(K, 0.5), size=(2, B))
FEATURES = {
    "crops": RNG.normal(size=(B, 2, D)),
    "patches": RNG.normal(size=(B, 3, D)),
    "whole": RNG.normal(size=(B, D)),
}
LEVELS = ("3", "7")
OUTPUTS = {name: np.float32(x) for name, x in FEATURES.items()} | {
    f"{name}/{level}": np.float32(x[i])
    for i, level in enumerate(LEVELS)
    for name, x in (("bag", BAGS), ("weights", WEIGHTS))
}


def by_hand(level, name, scale):
    crops = FEATURES[name].reshape(B, -1, D)
    total = 0.0
    for i in range(B):
        for crop in crops[i]:
            z = scale * WEIGHTS[level] @ crop
            total -= BAGS[level, i] @ (z - np.log(np.exp(z).sum()))
    return total / B / crops.shape[1]


def test_loss_is_the_sum_over_crops_of_the_mean_over_levels():
    names = tuple(FEATURES)
    term = BagPrediction(LEVELS, names, scale=3.0)
    loss, metrics = term(OUTPUTS, {}, StepContext())
    expected = sum((by_hand(0, name, 3.0) + by_hand(1, name, 3.0)) / 2 for name in names)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for i, level in enumerate(LEVELS):
        entropy = -(BAGS[i] * np.log(BAGS[i])).sum(-1)
        np.testing.assert_allclose(metrics[f"words/picture/{level}"], np.exp(entropy).mean(), rtol=1e-5)
        mean = BAGS[i].mean(0)
        np.testing.assert_allclose(metrics[f"words/batch/{level}"], np.exp(-(mean * np.log(mean)).sum()), rtol=1e-5)
    assert {*term.reads} == {*OUTPUTS}


def test_a_word_that_no_picture_has_counts_nothing():
    bag = np.float32(np.eye(K)[:B])
    _, metrics = BagPrediction(("3",))({**OUTPUTS, "bag/3": bag}, {}, StepContext())
    np.testing.assert_allclose(metrics["words/picture/3"], 1)
    np.testing.assert_allclose(metrics["words/batch/3"], B, rtol=1e-6)
