"""Every order visits each index once per epoch and resumes anywhere; groups keep related examples adjacent."""

import pickle
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.orders.base import SUBSTITUTE_DISTANCE, Shuffle
from jaxrep.data.orders.groups import Grouped
from jaxrep.data.orders.length_buckets import ByLength
from jaxrep.data.orders.neighbors import Neighbors
from jaxrep.data.orders.windows import Windowed
from jaxrep.errors import UsageError
from jaxrep.recipe import Data
from jaxrep.spec import problems
from tests.helpers.listed_source import Listed, listed, orders, positions

SEEDS = st.integers(0, 2**64 - 1)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, length=st.integers(1, 300), size=st.integers(1, 5), epoch=st.integers(0, 2**40))
def test_every_order_visits_each_index_once_per_epoch(seed, length, size, epoch):
    for order in orders(seed, size):
        indices = order.indices(listed(length, seed % 97), size)(positions(epoch * length, length))
        np.testing.assert_array_equal(np.sort(indices), np.arange(length), err_msg=str(order))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, length=st.integers(30, 200), size=st.integers(1, 5), start=st.integers(0, 2**40), at=st.data())
def test_every_order_resumes_at_any_position(seed, length, size, start, at):
    first, count = at.draw(st.integers(0, 99)), at.draw(st.integers(1, 50))
    for order in orders(seed, size):
        examples = listed(length, seed % 89)
        whole = order.indices(examples, size)(positions(start, 150))
        resumed = pickle.loads(pickle.dumps(order.indices(examples, size)))
        part = resumed(positions(start + first, count))
        np.testing.assert_array_equal(part, whole[first : first + count], err_msg=str(order))


@pytest.mark.parametrize("kind", range(5))
def test_every_order_differs_by_epoch_and_seed(kind):
    examples = Listed(
        1_000,
        np.arange(10, 1_010, 10),
        label=np.arange(1_000) % 50,
        text=np.arange(1_000) % 99,
        neighbors=np.arange(1, 1_001)[:, None] % 1_000,
    )
    made = [orders(seed, 5)[kind].indices(examples, 5)(positions(0, 3_000)).reshape(3, -1) for seed in (0, 1, 2**63)]
    every = np.concatenate(made)
    for i, a in enumerate(every):
        for b in every[:i]:
            assert (a == b).mean() < 0.012  # 0.001 is what chance gives; 12 of 1,000 are eleven deviations above


def test_window_mixes_the_examples_of_its_shards():
    examples = Listed(1_000, np.arange(10, 1_010, 10))
    indices = Windowed(seed=3, shards=20).indices(examples, 1)(positions(0, 1_000))
    for window in indices.reshape(5, 200):
        shards = np.unique(window // 10)
        assert len(shards) == 20  # 200 examples of 20 shards of 10
        assert np.corrcoef(window // 10, np.arange(200))[0, 1] ** 2 < 0.13  # five deviations of 1/sqrt(200)
    assert len(np.unique(np.diff(np.unique(indices[:200] // 10)))) > 1  # the shards of a window are no run of shards


def test_groups_share_a_value_and_align_with_batches():
    label = np.repeat(np.arange(30), np.arange(1, 31))  # one example of the first value, 30 of the last
    order = Grouped(seed=1, per_group=5).indices(Listed(len(label), label=label), 1)
    blocks = label[order(positions(0, 465))].reshape(-1, 5)
    grouped = (blocks == blocks[:, :1]).all(1)
    assert grouped.sum() >= (np.bincount(label) // 5).sum()  # every full group of every value
    assert 0 < grouped.argmin() < 60 and grouped[::-1].argmin() != 0  # mixed groups stand among the others
    assert Grouped(per_group=5).block_size(20) == 5
    epochs = [order(positions(epoch * 465, 465)).reshape(-1, 5) for epoch in range(2)]
    groups = [{frozenset(row) for row in rows} for rows in epochs]
    assert len(groups[0] & groups[1]) < 5  # other members each epoch


def test_groups_by_strings():
    concepts = ["dog", "cat", "dog", "emu", "cat", "dog", "dog", "cat"]
    order = Grouped(by="concept", per_group=2).indices(Listed(8, concept=concepts), 1)
    pairs = np.array(concepts)[order(positions(0, 8))].reshape(4, 2)
    assert sorted(a for a, b in pairs if a == b) == ["cat", "dog", "dog"]


@pytest.mark.parametrize(
    ("column", "own"),
    [
        (["", "b", "a", "", "b", "", "a", ""], ["~0", "b", "a", "~1", "b", "~2", "a", "~3"]),
        (np.array([-1, 3, 0, -1, 3, -1, 0, -1]), np.array([10, 3, 0, 11, 3, 12, 0, 13])),
        (np.array([np.nan, 3, 0, np.nan, 3, np.nan, 0, np.nan]), np.array([10.0, 3, 0, 11, 3, 12, 0, 13])),
    ],
    ids=["texts", "labels", "numbers"],
)
def test_examples_of_unknown_value_are_no_group(column, own):
    found, expected = (Grouped(by="x", per_group=2).indices(Listed(8, x=x), 1)(positions(0, 80)) for x in (column, own))
    np.testing.assert_array_equal(found, expected)


def test_neighbors_are_adjacent():
    n, k = 2_000, 4  # points on a ring, with two neighbors on each side
    offsets = np.array([-2, -1, 1, 2])
    ring = np.random.default_rng(0).permutation(n)  # index of the point at a place
    neighbors = np.empty((n, k), np.int64)
    neighbors[ring] = ring[(np.arange(n)[:, None] + offsets) % n]
    order = Neighbors(k=k).indices(Listed(n, neighbors=neighbors), 1)
    for epoch in range(2):
        indices = order(positions(epoch * n, n))
        near = [set(neighbors[index]) & set(indices[max(at - 4, 0) : at + 5]) for at, index in enumerate(indices)]
        assert np.mean([bool(found) for found in near]) > 0.9  # by chance 1.6%
    cliques = Neighbors().indices(Listed(60, neighbors=np.arange(60)[:, None] // 6 * 6 + np.arange(6)), 1)
    assert all(len(set(rows)) == 1 for rows in cliques(positions(0, 60)).reshape(10, 6) // 6)


def test_invalid_neighbor_indices_are_an_error():
    for wrong in (np.zeros(3, int), np.full((3, 1), 3), np.full((3, 1), -2)):
        with pytest.raises(UsageError, match=r"'neighbors' holds indices of neighbors, \[N,K\] from 0 to 2"):
            Neighbors().indices(Listed(3, neighbors=wrong), 1)


def test_substitute_is_near_and_depends_on_position_only():
    for order in orders(4, 3):
        indices = order.indices(listed(200, 1), 1)
        tried = [indices.substitute(2**40 + 7, attempt) for attempt in range(1, 30)]
        assert tried == [pickle.loads(pickle.dumps(indices)).substitute(2**40 + 7, attempt) for attempt in range(1, 30)]
        assert len(set(tried)) > 20 and tried[:5] != [indices.substitute(2**40 + 8, attempt) for attempt in range(1, 6)]
    many = Listed(10**9, np.arange(10**4, 10**9 + 1, 10**4))
    indices = Windowed(shards=64).indices(many, 1)
    window = set(indices(positions(0, 640_000)) // 10**4)
    assert {indices.substitute(500_000, attempt) // 10**4 for attempt in range(1, 20)} <= window
    assert SUBSTITUTE_DISTANCE < 140_000


@pytest.mark.parametrize("order", [Shuffle(), Windowed(), ByLength(), Grouped()])
def test_memory_and_time_for_ten_million_examples(order):
    examples = Listed(
        10_000_000,
        np.arange(5_000, 10_000_001, 5_000),
        label=np.arange(10_000_000, dtype=np.int32) % 997,
        text=np.arange(10_000_000, dtype=np.int32) % 300,
    )
    tracemalloc.start()
    started = time.process_time()
    indices = order.indices(examples, 1)
    first = indices(positions(9_999_000, 2_000))
    seconds, held = time.process_time() - started, tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert first.min() >= 0 and first.max() < 10_000_000
    assert held < 50e6
    assert seconds < 2.0 or isinstance(order, Grouped)  # it sorts, which takes about a second, and depends on the CPU


@pytest.mark.slow
def test_memory_of_neighbors_for_ten_million_examples():
    examples = Listed(10_000_000, neighbors=np.random.default_rng(0).integers(0, 10_000_000, (10_000_000, 8), np.int32))
    tracemalloc.start()
    order = Neighbors().indices(examples, 256)
    assert tracemalloc.get_traced_memory()[0] < 1e6  # planned when the first batch is read
    whole = np.concatenate([order(positions(start, 10_000_000)) for start in (0, 10_000_000)]).reshape(2, -1)
    held = tracemalloc.get_traced_memory()[0] - whole.nbytes
    tracemalloc.stop()
    assert held < 8.1 * 10_000_000
    assert all((np.bincount(epoch, minlength=10_000_000) == 1).all() for epoch in whole)


def test_invalid_orders():
    wrong = (Shuffle(seed=-1), Windowed(shards=0), Grouped(per_group=0), Neighbors(k=0))
    assert [len(problems(order)) for order in wrong] == [1] * 4
    for order in orders(0, 3):
        with pytest.raises(ValueError, match="no examples"):
            order.indices(Listed(0, label=np.zeros(0, int), neighbors=np.full((0, 1), -1)), 8)
    assert Shuffle(seed=1).for_source("a") == Shuffle(seed=1).for_source("a") != Shuffle(seed=1).for_source("b")


def test_batch_size_is_a_multiple_of_the_block_size():
    def found(**fields):
        return problems(Data(train=OpenMoji(), **{"batch_size": 32, **fields}))

    assert not found(order=Grouped(per_group=8)) and not found(order=Shuffle())
    assert found(order=Grouped(per_group=5))[0].startswith("batch_size is 32, which cuts groups of 5")
    assert found(max_bad_fraction=1.5) == [
        "max_bad_fraction: expected a number of at least 0 and of at most 1, got 1.5"
    ]
