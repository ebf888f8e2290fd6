"""``Shuffle`` visits each index once per epoch and depends on seed and position alone."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.data.orders.base import Shuffle, ShuffledIndices
from jaxrep.spec import problems
from tests.helpers.listed_source import Listed, positions

SEEDS = st.integers(0, 2**64 - 1)


@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, length=st.integers(1, 3_000), epoch=st.integers(0, 2**40))
def test_shuffle_visits_each_index_once_per_epoch(seed, length, epoch):
    indices = ShuffledIndices(seed, length)(positions(epoch * length, length))
    np.testing.assert_array_equal(np.sort(indices), np.arange(length))


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, length=st.integers(1, 500), start=st.integers(0, 2**50), data=st.data())
def test_index_depends_on_position_only(seed, length, start, data):
    order = ShuffledIndices(seed, length)
    whole = order(positions(start, 300))
    at = data.draw(st.integers(0, 299))
    np.testing.assert_array_equal(order(positions(start + at, 1)), whole[at : at + 1])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(order))(positions(start, 300)), whole)


def test_epochs_and_seeds_differ():
    epochs = [ShuffledIndices(0, 1_000)(positions(epoch * 1_000, 1_000)) for epoch in range(3)]
    others = [ShuffledIndices(seed, 1_000)(positions(0, 1_000)) for seed in (1, 2, 2**63)]
    orders = [*epochs, *others]
    for i, a in enumerate(orders):
        for b in orders[:i]:
            assert (a == b).mean() < 0.01  # 0.001 is what chance gives


def test_shuffle_of_ten_billion_examples():
    length = 10_000_000_019
    indices = ShuffledIndices(7, length)(positions(3 * length - 50_000, 100_000))
    for epoch in (indices[:50_000], indices[50_000:]):
        assert len(np.unique(epoch)) == 50_000
    assert indices.min() >= 0 and indices.max() < length
    # Mean of 100,000 uniform draws: standard deviation 0.2887 / sqrt(1e5) = 0.0009; five of them.
    assert abs(indices.mean() / length - 0.5) < 0.0046


@pytest.mark.parametrize("length", [2, 3, 5, 6, 7])
def test_adjacent_pairs_are_equally_likely(length):
    epochs = 20_000
    orders = ShuffledIndices(1, length)(positions(0, epochs * length)).reshape(epochs, length)
    counts = np.zeros((length, length))
    np.add.at(counts, (orders[:, 0], orders[:, 1]), 1)
    counts = counts[~np.eye(length, dtype=bool)]
    expected = epochs / counts.size
    chi2, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)  # mean and five standard deviations of chi-squared


def test_shuffle_order_is_pinned():
    np.testing.assert_array_equal(
        ShuffledIndices(0, 10)(positions(0, 20)), [1, 9, 0, 6, 7, 8, 4, 3, 5, 2, 4, 7, 0, 6, 5, 1, 8, 3, 9, 2]
    )


def test_shuffle_spec_errors():
    assert Shuffle(seed=3).indices(Listed(11), 1) == ShuffledIndices(3, 11)
    with pytest.raises(ValueError, match="no examples"):
        Shuffle().indices(Listed(0), 1)
    assert len(problems(Shuffle(seed=-1))) == 1 and not problems(Shuffle())
