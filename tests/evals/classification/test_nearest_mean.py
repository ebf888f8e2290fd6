"""Nearest class mean, against scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from jaxrep.evals.classification.nearest_mean import NearestMean, class_means
from tests.helpers.fake_model import FakeModel, given, pictures


@pytest.mark.parametrize("unit", [True, False])
def test_predictions_equal_scikit_learn(unit):
    random = np.random.default_rng(0)
    labels = random.integers(4, size=160)
    features = (random.normal(size=(4, 6))[labels] + random.normal(size=(160, 6))).astype(np.float32)
    source = lambda cut: given(image=pictures(range(160))[cut], label=labels[cut])  # noqa: E731
    model = FakeModel(features, {})
    found = NearestMean(train=source(slice(100)), data=source(slice(100, 160)), normalize=unit).run(model)
    seen = features / np.linalg.norm(features, axis=1, keepdims=True) if unit else features
    oracle = NearestCentroid().fit(seen[:100], labels[:100])
    right = oracle.predict(seen[100:]) == labels[100:]
    np.testing.assert_array_equal(found["nearest_mean/top1"].values, right)
    assert 0.4 < right.mean() < 1


def test_class_without_training_images_is_never_predicted():
    model = FakeModel(np.eye(3, dtype=np.float32), {})
    train = given(image=pictures([0, 1]), label=np.array([0, 2]))
    data = given(image=pictures([0, 1, 2]), label=np.array([0, 2, 1]))
    found = NearestMean(train=train, data=data, ks=(1, 2)).run(model)
    assert (found["nearest_mean/top1"], found["nearest_mean/top2"]) == (2 / 3, 2 / 3)
    assert np.isnan(class_means(np.ones((2, 2)), np.array([0, 2]), 3)).all(axis=1).tolist() == [False, True, False]
