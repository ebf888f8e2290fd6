"""Clusters and how they compare with labels, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.cluster import KMeans

from jaxrep.evals.classification.clustering import (
    Clustering,
    adjusted_rand_index,
    k_means,
    k_means_seeds,
    matched,
    normalized_mutual_information,
)
from tests.helpers.fake_model import FakeModel, given, pictures

CASES = [
    *[
        (np.random.default_rng(s).integers(4, size=60), np.random.default_rng(s + 9).integers(7, size=60))
        for s in (0, 1)
    ],
    (np.arange(60) // 15, (np.arange(60) // 12) * 3 - 5),
    (np.arange(60) // 15, 7 - np.arange(60) // 15),
    (np.zeros(60, int), np.arange(60) // 15),
    (np.zeros(60, int), np.ones(60, int)),
    (np.arange(60), np.arange(60)),
]


@pytest.mark.parametrize("a, b", CASES)
def test_nmi_and_ari_equal_scikit_learn(a, b):
    assert normalized_mutual_information(a, b) == pytest.approx(metrics.normalized_mutual_info_score(a, b), abs=1e-12)
    assert adjusted_rand_index(a, b) == pytest.approx(metrics.adjusted_rand_score(a, b), abs=1e-12)
    assert normalized_mutual_information(b, a) == pytest.approx(normalized_mutual_information(a, b), abs=1e-12)


def blobs(spread, seed=0):
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(6), 40))
    return (5 * random.normal(size=(6, 5))[labels] + spread * random.normal(size=(240, 5))).astype(np.float32), labels


def test_separate_clusters_are_found():
    features, labels = blobs(0.3)
    model = FakeModel(features, {})
    found = Clustering(data=given(image=pictures(range(240)), label=labels), normalize=False, restarts=5).run(model)
    assert found == {"clustering/nmi": 1, "clustering/ari": 1, "clustering/accuracy": 1}


def test_k_means_equals_scikit_learn_from_equal_seeds():
    features, _ = blobs(6.0)
    start = k_means_seeds(features, 6, np.random.default_rng(3))
    oracle = KMeans(6, init=start.astype(np.float32), n_init=1, tol=0).fit(features)
    found = k_means(features, 6, np.random.default_rng(3))
    np.testing.assert_array_equal(found.clusters, oracle.labels_)
    np.testing.assert_allclose(found.centers, oracle.cluster_centers_, rtol=1e-4, atol=1e-4)  # scikit-learn's float32
    assert found.inertia == pytest.approx(oracle.inertia_, rel=1e-5)


def test_k_means_seeds_by_squared_distance():
    features = np.repeat(np.array([[0.0], [1.0], [3.0]]), [98, 1, 1], axis=0)
    second = [k_means_seeds(features, 2, np.random.default_rng(s)) for s in range(2000)]
    from_zero = [each[1, 0] for each in second if each[0, 0] == 0]
    assert np.mean(np.array(from_zero) == 3) == pytest.approx(0.9, abs=0.03)  # 9 to 1; four deviations of 2,000 draws


def test_fewer_distinct_examples_than_clusters():
    found = k_means(np.ones((5, 2), np.float32), 3, np.random.default_rng(0))
    assert found.inertia == 0 and len(set(found.clusters)) == 1


def test_matched_assigns_clusters_to_classes():
    clusters = np.array([5, 5, 5, 7, 7, 9])
    labels = np.array([2, 2, 1, 2, 2, 0])
    np.testing.assert_array_equal(matched(clusters, labels), [False, False, True, True, True, True])
    assert matched(np.array([0, 1, 2]), np.array([4, 4, 4])).sum() == 1


def test_features_are_normalized():
    features = np.concatenate([np.outer(np.arange(1, 21), [1, 0]), np.outer(np.arange(1, 21), [1, 0.5])]).astype(
        np.float32
    )
    data = given(image=pictures(range(40)), label=np.repeat([0, 1], 20))
    model = FakeModel(features, {})
    assert Clustering(data=data).run(model)["clustering/accuracy"] == 1
    assert Clustering(data=data, normalize=False).run(model)["clustering/accuracy"] < 1
