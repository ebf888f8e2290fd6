"""Clusters and how they compare with labels, against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics
from sklearn.cluster import KMeans

from jaxrep.errors import JaxrepError
from jaxrep.evals.classification.clustering import (
    Clustering,
    adjusted_rand_index,
    calinski_harabasz,
    davies_bouldin,
    k_means,
    k_means_seeds,
    matched,
    normalized_mutual_information,
    principal_components,
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
    assert [found.pop(f"clustering/{name}") for name in ("nmi", "ari", "accuracy")] == [1, 1, 1]
    assert found == {  # of scikit-learn's functions on the true labels
        "clustering/calinski_harabasz": pytest.approx(metrics.calinski_harabasz_score(features, labels), rel=1e-6),
        "clustering/davies_bouldin": pytest.approx(metrics.davies_bouldin_score(features, labels), rel=1e-6),
    }


def apart():
    """Return three groups in space, and clusters that have two rows of other groups."""
    features = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32) + 3 * np.repeat(np.eye(3), 10, 0)
    clusters = np.repeat([5, 0, 2], 10)
    clusters[[3, 17]] = 2, 5
    return features.astype(np.float32), clusters


def test_how_far_clusters_are_apart_equals_scikit_learn():
    features, clusters = apart()
    # scikit-learn 1.9.1's calinski_harabasz_score and davies_bouldin_score of these rows
    assert calinski_harabasz(features, clusters) == pytest.approx(20.56608801734516, rel=1e-6)
    assert davies_bouldin(features, clusters) == pytest.approx(0.8577477086619169, rel=1e-6)
    far = features.astype(np.float64) + 1e4  # centers far from zero
    assert davies_bouldin(far, clusters) == pytest.approx(metrics.davies_bouldin_score(far, clusters), rel=1e-6)
    for rows, index in (
        (np.repeat(np.eye(3), 5, 0), np.repeat([0, 1, 2], 5)),  # nothing varies within
        (np.ones((6, 2)), np.arange(6) % 2),  # nothing varies at all
        (np.array([[0.0], [2], [0], [2], [7]]), np.array([0, 0, 1, 1, 2])),  # two clusters of one center
    ):
        assert calinski_harabasz(rows, index) == pytest.approx(metrics.calinski_harabasz_score(rows, index))
        assert davies_bouldin(rows, index) == pytest.approx(metrics.davies_bouldin_score(rows, index))


def test_one_cluster_and_clusters_of_one_have_no_distances():
    features, labels = blobs(0.3)
    data = given(image=pictures(range(6)), label=labels[:6])
    names = ("nmi", "ari", "accuracy")
    for count in (1, 6):
        found = Clustering(data=data, normalize=False, clusters=count, restarts=2).run(FakeModel(features, {}))
        assert found.keys() == {f"clustering/{name}" for name in names}


def test_principal_components_equal_those_of_a_singular_value_decomposition():
    features = apart()[0] * np.array([1, 30, 3], np.float32) + 100
    left, sizes, _ = np.linalg.svd(features.astype(np.float64) - features.mean(0, np.float64), full_matrices=False)
    found = principal_components(features, 2)
    np.testing.assert_allclose(np.abs(found), np.abs(left * sizes)[:, :2], rtol=1e-8, atol=1e-9)
    data = given(image=pictures(range(30)), label=np.arange(30) // 10)
    whole, first = (
        Clustering(data=data, normalize=False, components=count).run(FakeModel(features, {})) for count in (3, 1)
    )
    assert whole == pytest.approx(Clustering(data=data, normalize=False).run(FakeModel(features, {})))  # turned
    assert first["clustering/calinski_harabasz"] > whole["clustering/calinski_harabasz"]
    with pytest.raises(JaxrepError, match=r"\(30, 3\) features have no 4 components"):
        Clustering(data=data, components=4).run(FakeModel(features, {}))


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
