"""Lanes read shards of their own: each example once per epoch of its lane, from any position, on any hosts."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.batch import Field
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.orders.base import SUBSTITUTE_DISTANCE
from jaxrep.data.orders.lanes import deal
from jaxrep.data.orders.windows import Windowed
from jaxrep.data.source import Source
from jaxrep.data.transforms.mixture import Mixture, Reweight
from jaxrep.data.transforms.subsets import Filter, Take, Where
from jaxrep.errors import UsageError
from jaxrep.recipe import Data
from jaxrep.spec import problems, spec
from tests.helpers.harness import logged
from tests.helpers.listed_source import Listed, positions

SEEDS = st.integers(0, 2**64 - 1)
LANES = st.sampled_from([1, 2, 3, 4, 6, 8])


def uneven(lanes: int, seed: int) -> np.ndarray:
    """The ends of uneven shards, some of them empty, and at least as many with examples as there are lanes."""
    rng = np.random.default_rng(seed)
    sizes = np.concatenate([rng.integers(1, 9, lanes), rng.integers(0, 9, rng.integers(0, 30))])
    return np.cumsum(rng.permutation(sizes))


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def rows_of(host: int, hosts: int, batch_size: int) -> slice:
    """The rows of a host, as those of a mesh: ranges of equal size, but for hosts that do not divide the batch."""
    return slice(batch_size * host // hosts, batch_size * (host + 1) // hosts)


def shards_of(indices: np.ndarray, ends: np.ndarray) -> set[int]:
    return set(np.searchsorted(ends, indices.ravel(), side="right").tolist())


@spec
class Numbers(Source):
    """The numbers from ``start`` on, in shards that end at ``ends``."""

    ends: tuple[int, ...]
    start: int = 0

    def fields(self):
        return {"number": Field((), "int64")}

    def open(self):
        return Listed(self.ends[-1], self.ends, number=self.start + np.arange(self.ends[-1]))


# Epochs


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, lanes=LANES, rows=st.integers(1, 5), size=st.integers(1, 4))
def test_every_lane_reads_its_own_shards_once_per_epoch(seed, lanes, rows, size):
    ends = uneven(lanes, seed % 997)
    order = Windowed(seed=seed, shards=size, lanes=lanes).indices(Listed(ends[-1], ends), lanes * rows)
    steps = 3 * ends[-1] // rows + 2  # enough for three epochs of a lane that holds everything
    by_lane = order(positions(0, lanes * rows * steps)).reshape(steps, lanes, rows).swapaxes(0, 1).reshape(lanes, -1)
    own = [shards_of(lane, ends) for lane in by_lane]
    assert sum(map(len, own)) == len(set.union(*own)) == np.count_nonzero(np.diff(ends, prepend=0))
    held = []
    for lane, shards in zip(by_lane, own, strict=True):
        examples = np.concatenate([np.arange(ends[s - 1] if s else 0, ends[s]) for s in sorted(shards)])
        epochs = lane[: len(lane) // len(examples) * len(examples)].reshape(-1, len(examples))
        assert len(epochs) >= 3
        np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(examples, epochs.shape))
        held.append(len(examples))
    assert sum(held) == ends[-1] and max(held) - min(held) <= np.diff(ends, prepend=0).max()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), lanes=st.integers(1, 40), largest=st.integers(1, 1_000))
def test_shards_are_dealt_evenly(seed, lanes, largest):
    sizes = np.random.default_rng(seed).integers(0, largest + 1, 200)
    dealt = deal(sizes, lanes)
    np.testing.assert_array_equal(np.sort(np.concatenate(dealt)), np.flatnonzero(sizes))
    assert all((np.diff(own) > 0).all() for own in dealt)
    held = [sizes[own].sum() for own in dealt]
    assert max(held) - min(held) <= sizes.max()
    again = deal(sizes[np.concatenate(dealt)], lanes)  # the balance does not hang on the numbers of the shards
    assert sorted(sizes[np.concatenate(dealt)][own].sum() for own in again) == sorted(held)


def test_shards_of_one_size_are_dealt_in_turn():
    assert [own.tolist() for own in deal(np.full(10, 7), 4)] == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]
    assert [own.tolist() for own in deal(np.array([1, 9, 0, 5, 4]), 2)] == [[0, 1], [3, 4]]


def test_a_lane_shuffles_its_windows_as_an_order_of_its_shards_alone():
    ends = np.arange(10, 401, 10)
    order = Windowed(seed=5, shards=4, lanes=4).indices(Listed(400, ends), 40)
    by_lane = order(positions(0, 800)).reshape(20, 4, 10).swapaxes(0, 1).reshape(4, 2, 100)
    for first, second in by_lane:
        for window in first[:80].reshape(2, 40):
            assert len(shards_of(window, ends)) == 4  # 40 examples of 4 shards of 10
            assert np.corrcoef(window // 10, np.arange(40))[0, 1] ** 2 < 0.63  # five deviations of 1/sqrt(40)
        assert (first == second).mean() < 0.1  # another order in the next epoch; 0.01 is what chance gives
    places = by_lane[:, 0] // 40 * 10 + by_lane[:, 0] % 10  # the place of an example among those of its lane
    same = [(a == b).mean() for i, a in enumerate(places) for b in places[:i]]
    assert max(same) < 0.1  # the lanes have different orders


def test_one_lane_is_the_order_without_lanes():
    ends = [3, 3, 5, 9, 12]
    expected = [2, 10, 1, 0, 9, 11, 3, 4, 6, 7, 8, 5, 8, 7, 6, 5, 9, 10, 4, 3, 11, 1, 2, 0]  # of jaxrep 0.2
    for order in (Windowed(seed=3, shards=2), Windowed(seed=3, shards=2, lanes=1)):
        assert order.indices(Listed(12, ends), 4)(positions(0, 24)).tolist() == expected


def test_order_of_lanes_is_pinned():
    order = Windowed(seed=3, shards=2, lanes=2).indices(Listed(12, [3, 3, 5, 9, 12]), 4)
    expected = [7, 8, 11, 9, 5, 4, 2, 1, 6, 3, 0, 10, 3, 6, 9, 2, 7, 8, 1, 10, 4, 5, 11, 0]
    assert order(positions(0, 24)).tolist() == expected


# Hosts


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, lanes=LANES, rows=st.integers(1, 4), start=st.integers(0, 2**40))
def test_hosts_read_disjoint_shards_and_the_same_batches(seed, lanes, rows, start):
    batch_size, steps, ends = lanes * rows, 6, uneven(lanes, seed % 997)
    order = Windowed(seed=seed, shards=2, lanes=lanes).indices(Listed(ends[-1], ends), batch_size)
    whole = order(positions(start * batch_size, steps * batch_size)).reshape(steps, batch_size)
    for hosts in {*divisors(lanes), min(3, batch_size), batch_size}:
        parts = []
        for host in range(hosts):
            own, fresh = rows_of(host, hosts, batch_size), pickle.loads(pickle.dumps(order))
            at = [positions((start + step) * batch_size + own.start, own.stop - own.start) for step in range(steps)]
            parts.append(np.stack([fresh(each) for each in at]))
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
        if lanes % hosts == 0:
            read = [shards_of(part, ends) for part in parts]
            assert sum(map(len, read)) == len(set.union(*read))


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, lanes=LANES, start=st.integers(0, 2**40), first=st.integers(0, 99), count=st.integers(1, 50))
def test_lanes_resume_at_any_position(seed, lanes, start, first, count):
    ends = uneven(lanes, seed % 997)
    order = Windowed(seed=seed, shards=3, lanes=lanes)
    whole = order.indices(Listed(ends[-1], ends), lanes * 3)(positions(start, 150))
    resumed = pickle.loads(pickle.dumps(order.indices(Listed(ends[-1], ends), lanes * 3)))
    np.testing.assert_array_equal(resumed(positions(start + first, count)), whole[first : first + count])


def test_substitutes_stay_in_the_lane_and_are_near():
    ends = np.arange(10_000, 3_200_001, 10_000)
    order = Windowed(seed=1, shards=2, lanes=16).indices(Listed(3_200_000, ends), 256)
    lanes = order(positions(0, 256 * 40)).reshape(40, 16, 16).swapaxes(0, 1).reshape(16, -1)
    own = [shards_of(lane, ends) for lane in lanes]  # the shards of the first windows
    for position in (0, 17, 100, 255):
        tried = [order.substitute(position, attempt) for attempt in range(1, 101)]
        assert tried == [pickle.loads(pickle.dumps(order)).substitute(position, attempt) for attempt in range(1, 101)]
        assert len(set(tried)) > 90
        lane = position // 16
        assert shards_of(np.array(tried[:7]), ends) <= own[lane]  # the shards that are in use
        assert all(shard % 16 == next(iter(own[lane])) % 16 for shard in shards_of(np.array(tried), ends))
        assert len(shards_of(np.array(tried), ends)) > 4  # a shard that cannot be read at all is left behind
    assert SUBSTITUTE_DISTANCE // 16 == 4_096


# Subsets and mixtures


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), lanes=st.sampled_from([2, 3, 4]), low=st.integers(0, 30), high=st.integers(60, 99)
)
def test_subsets_keep_their_shards(seed, lanes, low, high):
    ends = uneven(9, seed)
    where = Where(column="number", at_least=ends[-1] * low / 100, at_most=ends[-1] * high / 100)
    kept = Take(source=Filter(source=Numbers(ends=tuple(ends.tolist())), where=(where,)), count=10**6).open()
    if np.count_nonzero(np.diff(kept.shard_ends, prepend=0)) < lanes:
        with pytest.raises(UsageError, match=f"the order has {lanes} lanes, and the data have"):
            kept.ordered_indices(Windowed(lanes=lanes), lanes * 2)
        return
    order = kept.ordered_indices(Windowed(seed=seed, shards=2, lanes=lanes), lanes * 2)
    steps = len(kept) // 2 + 1  # an epoch of a lane that holds everything
    numbers = kept.gather(order(positions(0, lanes * 2 * steps)))["number"].reshape(steps, lanes, 2).swapaxes(0, 1)
    read = [shards_of(lane, ends) for lane in numbers]
    assert sum(map(len, read)) == len(set.union(*read))
    np.testing.assert_array_equal(np.unique(numbers), kept.column("number"))


A = Numbers(ends=(5, 9, 9, 20, 26, 30))
B = Numbers(ends=(7, 20, 31, 40, 50), start=100)
C = Numbers(ends=(3, 8, 12, 20), start=200)
ENDS = np.concatenate([np.array(A.ends), 30 + np.array(B.ends), 80 + np.array(C.ends)])


def mixed(lanes, batch_size, seed=1, **changes):
    inner = Mixture(sources={"b": B, "c": C}, weights={"b": 1, "c": 2})
    mixture = Mixture(**{"sources": {"a": A, "inner": inner}, "weights": {"a": 1, "inner": 2}, **changes})
    assert not problems(mixture)
    return mixture.open().ordered_indices(Windowed(seed=seed, shards=2, lanes=lanes), batch_size)


@settings(max_examples=15, deadline=None)
@given(
    seed=SEEDS,
    lanes=st.sampled_from([1, 2, 4]),
    rows=st.integers(1, 5),
    weights=st.tuples(*[st.floats(0.1, 5)] * 3),
    at=st.integers(1, 300),
    ramp=st.integers(0, 300),
    whole=st.booleans(),
    start=st.integers(0, 500),
)
def test_every_source_of_a_mixture_has_its_lanes(seed, lanes, rows, weights, at, ramp, whole, start):
    change = Reweight(at=at, weights={"a": weights[2], "inner": 1}, ramp=ramp)
    own = {"weights": {"a": weights[0], "inner": weights[1]}, "changes": (change,), "one_source_per_batch": whole}
    batch_size, steps = lanes * rows, 60
    order = mixed(lanes, batch_size, seed, **own)
    indices = order(positions(0, steps * batch_size))
    by_lane = indices.reshape(steps, lanes, rows).swapaxes(0, 1)
    read = [shards_of(lane, ENDS) for lane in by_lane]
    assert sum(map(len, read)) == len(set.union(*read))
    for lane in by_lane:  # each source goes through its own epochs in each lane
        source = np.digitize(lane.ravel(), [30, 80])
        for number in range(3):
            drawn, known = lane.ravel()[source == number], len(np.unique(lane.ravel()[source == number]))
            epochs = drawn[: len(drawn) // known * known].reshape(-1, known) if known else drawn[None]
            if len(epochs) > 1:
                np.testing.assert_array_equal(np.sort(epochs), np.broadcast_to(np.unique(drawn), epochs.shape))
    at = min(start, len(indices))
    counts = order.source_counts(at)
    actual = np.bincount(np.digitize(indices[:at], [30, 80]), minlength=3)
    np.testing.assert_array_equal(actual, [counts["a"], counts["inner/b"], counts["inner/c"]])
    if whole:
        sources = np.digitize(indices.reshape(steps, batch_size), [30]) == 1
        assert (sources == sources[:, :1]).all()
    resumed = pickle.loads(pickle.dumps(mixed(lanes, batch_size, seed, **own)))
    np.testing.assert_array_equal(resumed(positions(at, 50)), order(positions(at, 50)))
    for lane in range(lanes):
        position = at // batch_size * batch_size + lane * rows + at % rows
        substitutes = np.array([order.substitute(position, attempt) for attempt in (1, 2, 50)])
        assert shards_of(substitutes, ENDS).isdisjoint(set().union(*read[:lane], *read[lane + 1 :]))
        own_source = np.digitize(order(positions(position, 1)), [30, 80]) == 0
        assert ((np.digitize(substitutes, [30, 80]) == 0) == own_source).all()


@pytest.mark.parametrize("lanes", [1, 4, 32])
def test_lanes_of_a_mixture_have_the_shares_of_its_weights(lanes):
    names = ("a", "b", "c")
    ends = tuple(range(1_000, 80_001, 1_000))
    weights = {"a": 0.7, "b": 0.299, "c": 0.001}
    mixture = Mixture(sources={name: Numbers(ends=ends) for name in names}, weights=weights)
    order = mixture.open().ordered_indices(Windowed(lanes=lanes), 256)
    for steps in (1, 7, 100, 1_000):
        counts = order.source_counts(256 * steps)
        for name, weight in weights.items():
            assert abs(counts[name] - weight * 256 * steps) < (2 if lanes == 1 else lanes / 4)
    rare = (order(positions(0, 256 * 400)) >= 160_000).reshape(400, 256).sum(1)
    assert rare.max() <= (1 if lanes < 32 else 2)  # not one in every lane at a time


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_weights_change_where_they_are_declared(lanes):
    change = Reweight(at=160, weights={"inner": 1})
    indices = mixed(lanes, 16, weights={"a": 1}, changes=(change,))(positions(0, 480)).reshape(30, 16)
    assert (indices[:10] < 30).all() and (indices[10:] >= 30).all()


# Mistakes


def test_lanes_that_do_not_fit_are_one_sentence():
    def found(**fields):
        return problems(Data(train=OpenMoji(), batch_size=32, order=Windowed(**fields)))

    assert found(lanes=8) == found() == []
    assert found(lanes=5) == ["order.lanes is 5, which does not divide batch_size 32: take a divisor of it"]
    assert found(lanes=64) == ["order.lanes is 64, which does not divide batch_size 32: take a divisor of it"]
    assert found(lanes=0) == ["order.lanes: expected a number of at least 1, got 0"]
    with pytest.raises(UsageError) as error:
        Windowed(lanes=4).indices(Listed(9, [3, 3, 9]), 8)
    assert str(error.value) == (
        "the order has 4 lanes, and the data have 2 shards with examples: each lane reads shards of its own, so set "
        "data.order.lanes to at most 2, or take smaller shards"
    )
    with pytest.raises(
        UsageError, match=r"^the source 'c' of the mixture: the order has 5 lanes, and the data have 4 shards"
    ):
        Mixture(sources={"b": B, "c": C}).open().ordered_indices(Windowed(lanes=5), 10)
    with pytest.raises(ValueError, match="a batch of 10 rows cannot be cut into 4 equal lanes"):
        Windowed(lanes=4).indices(Listed(8, range(1, 9)), 10)
    with pytest.raises(ValueError, match="no examples"):
        Windowed(lanes=4).indices(Listed(0, [0, 0, 0, 0]), 8)


def test_lanes_that_drift_apart_are_told():
    ends = np.arange(100, 10_001, 100)
    with logged() as messages:
        Windowed(lanes=4).indices(Listed(10_000, ends), 8)
        Windowed(lanes=16).indices(Listed(10_000, ends[:96]), 16)
        Windowed().indices(Listed(10_000, ends), 8)
    assert not messages
    with logged() as messages:
        Windowed(lanes=32).indices(Listed(10_000, ends), 32)
    assert messages == [
        "the 32 lanes of the order hold 300 to 400 examples, so that those of the smallest come 33% more often than "
        "those of the largest: fewer lanes (data.order.lanes) or smaller shards even this out"
    ]
