"""Votes of neighbors, against scikit-learn."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from jaxrep.evals.classification.knn import Knn, most_similar, vote_ranks
from tests.helpers.fake_model import FakeModel, given, pictures, unit


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(0)
    labels = random.integers(5, size=200)
    features = unit(random.normal(size=(5, 8))[labels] + 1.2 * random.normal(size=(200, 8)))
    source = lambda cut: given(image=pictures(range(200))[cut], label=labels[cut].astype(np.int32))  # noqa: E731
    return FakeModel(features, {}), features, labels, source(slice(120)), source(slice(120, 200))


@pytest.mark.parametrize("k", [1, 5, 20])
def test_weighted_vote_equals_scikit_learn(world, k):
    model, features, labels, train, data = world
    found = Knn(train=train, data=data, neighbors=(1, 5, 20), ks=(1, 2)).run(model)
    weigh = lambda distance: np.exp((1 - distance) / 0.07)  # noqa: E731
    oracle = KNeighborsClassifier(k, metric="cosine", weights=weigh).fit(features[:120], labels[:120])
    votes = oracle.predict_proba(features[120:])
    order = np.argsort(-votes, axis=1)
    held = labels[120:]
    assert found[f"knn/{k}/top1"] == np.mean(order[:, 0] == held)
    if k > 1:  # of one neighbor, all classes but its own tie
        assert found[f"knn/{k}/top2"] == np.mean((order[:, :2] == held[:, None]).any(1) & (votes[range(80), held] > 0))
        assert 0.5 < found[f"knn/{k}/top1"] < found[f"knn/{k}/top2"] < 1
    np.testing.assert_array_equal(found[f"knn/{k}/top1"].values, order[:, 0] == held)


def test_majority_vote_equals_scikit_learn_without_ties(world):
    model, features, labels, train, data = world
    found = Knn(train=train, data=data, neighbors=(15,)).run(model)["knn/15/majority/top1"].values
    oracle = KNeighborsClassifier(15, metric="cosine").fit(features[:120], labels[:120])
    votes = np.sort(oracle.predict_proba(features[120:]), axis=1)
    clear = votes[:, -1] > votes[:, -2]
    assert 0.5 < clear.mean() < 1
    np.testing.assert_array_equal(found[clear], (oracle.predict(features[120:]) == labels[120:])[clear])
    assert not found[~clear].any()  # a tie counts against the model


def test_most_similar_is_independent_of_block_size():
    random = np.random.default_rng(1)
    queries, gallery = unit(random.normal(size=(30, 6))), unit(random.normal(size=(101, 6)))
    order = np.argsort(-(queries.astype(float) @ gallery.T.astype(float)), axis=1)[:, :9]
    for block_size in (4, 16, 1000):
        similarity, index = most_similar(queries, gallery, 9, block_size=block_size)
        np.testing.assert_array_equal(index, order)
        np.testing.assert_allclose(similarity, np.einsum("qd,qkd->qk", queries, gallery[order]), atol=1e-6)  # float32
    same = np.repeat(gallery[:1], 5, axis=0)
    np.testing.assert_array_equal(most_similar(same[:1], same, 5, block_size=2)[1], [[0, 1, 2, 3, 4]])


def test_class_without_votes_is_last():
    voters, weights = np.array([[0, 0, 2]] * 4), np.ones((4, 3))
    np.testing.assert_array_equal(vote_ranks(voters, weights, np.array([0, 2, 1, 3]), 4, block_size=3), [1, 2, 4, 4])
