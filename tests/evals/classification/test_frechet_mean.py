"""Prediction by a Fréchet mean over a metric of the labels."""

import numpy as np
import pytest
from scipy.special import softmax

from jaxrep.errors import UsageError
from jaxrep.evals.classification.frechet_mean import FrechetMean, frechet_mean
from jaxrep.evals.classification.zero_shot import ZeroShot
from tests.helpers.fake_model import FakeModel, given, pictures, unit

NAMES = ("one", "two", "three", "four", "five")
LINE = np.abs(np.subtract.outer(range(5), range(5))).astype(float)
"""Classes on a line: the Fréchet mean is the one nearest to the expected place."""


def world(n=80):
    random = np.random.default_rng(0)
    labels = random.integers(5, size=n).astype(np.int32)
    texts = {name: unit([1, k / 2]) for k, name in enumerate(NAMES)}
    images = unit([[1, k / 2 + e] for k, e in zip(labels, 0.4 * random.normal(size=n), strict=True)])
    return FakeModel(images, texts, scale=np.float32(30)), given(
        {"label": NAMES}, image=pictures(range(n)), label=labels
    )


def by_loops(p, distances, observed):
    """argmin_y sum_k p_k d(y, k)^2, written out."""
    risks = [[sum(q * distances[y, k] ** 2 for q, k in zip(row, observed, strict=True)) for y in range(5)] for row in p]
    return np.argmin(risks, axis=1)


@pytest.mark.parametrize("observed", [(), (0, 2, 4)])
@pytest.mark.parametrize("own", [True, False])
def test_predictions_and_distances_equal_their_definitions(tmp_path, observed, own):
    model, data = world()
    np.save(tmp_path / "line.npy", LINE)
    texts = np.stack([model.texts[name] for name in NAMES]).astype(float)
    distances = np.linalg.norm(texts[:, None] - texts, axis=2) if own else LINE
    found = FrechetMean(data=data, distances="" if own else str(tmp_path / "line.npy"), observed=observed).run(model)
    known, labels = list(observed or range(5)), data.open().column("label")
    p = softmax(30 * model.images.astype(float) @ texts[known].T, axis=1)
    predicted = by_loops(p, distances, known)
    np.testing.assert_array_equal(found["frechet/top1"].values, predicted == labels)
    np.testing.assert_allclose(found["frechet/squared_distance"].values, distances[predicted, labels] ** 2, atol=1e-6)
    likeliest = np.array(known)[p.argmax(1)]
    np.testing.assert_allclose(
        found["frechet/argmax_squared_distance"].values, distances[likeliest, labels] ** 2, atol=1e-6
    )
    if observed:  # classes without a probability are found between those that have one
        assert set(predicted) > set(observed)


def test_equal_distances_give_the_most_likely_class(tmp_path):
    model, data = world()
    np.save(tmp_path / "same.npy", 1 - np.eye(5))
    found = FrechetMean(data=data, distances=str(tmp_path / "same.npy")).run(model)
    expected = ZeroShot(data=data).run(model)["zeroshot/top1"]
    np.testing.assert_array_equal(found["frechet/top1"].values, expected.values)


def test_frechet_mean_minimizes_the_expected_squared_distance():
    p = np.array([[0.5, 0.0, 0.0, 0.0, 0.5], [0.9, 0.1, 0, 0, 0], [0.0, 0.4, 0.6, 0, 0]])
    np.testing.assert_array_equal(frechet_mean(p, LINE**2), [2, 0, 2])


def test_wrong_distances_are_one_sentence(tmp_path):
    model, data = world()
    np.save(tmp_path / "four.npy", LINE[:4, :4])
    with pytest.raises(UsageError, match=r"four.npy holds an array of shape \(4, 4\); distances of 5"):
        FrechetMean(data=data, distances=str(tmp_path / "four.npy")).run(model)
    with pytest.raises(UsageError, match="the distances cannot be read"):
        FrechetMean(data=data, distances=str(tmp_path / "none.npy")).run(model)
    with pytest.raises(UsageError, match="observed holds label 7, and there are 5 classes"):
        FrechetMean(data=data, observed=(0, 7)).run(model)
    assert "observed holds each label once" in next(FrechetMean(data=data, observed=(1, 1)).problems())
