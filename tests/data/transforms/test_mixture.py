"""A mixture draws its sources in exact shares of the weights at any time, and resumes anywhere."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.batch import Field
from jaxrep.data.loading.loader import Loader
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.orders.groups import Grouped
from jaxrep.data.orders.windows import Windowed
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms.mixture import Mixture, Reweight
from jaxrep.data.transforms.shares import Shares
from jaxrep.data.transforms.subsets import Filter, Where
from jaxrep.errors import UsageError
from jaxrep.spec import problems, spec
from tests.helpers.listed_source import positions


@spec
class Numbers(Source):
    """The numbers from ``start`` on."""

    start: int = 0
    length: int = 10
    name: str = "number"

    def fields(self):
        return {self.name: Field((), "int64"), "word": Field((), "str"), "label": Field((), "int32")}

    def open(self):
        numbers = np.arange(self.start, self.start + self.length)
        words = [str(number) for number in numbers]
        return Columns({self.name: numbers, "word": words, "label": (numbers % 3).astype(np.int32)})


ORDER = Shuffle()
A, B, C = Numbers(length=30), Numbers(start=100, length=50), Numbers(start=200, length=20)
WEIGHTS = st.lists(st.floats(0, 10), min_size=4, max_size=4).filter(lambda weights: sum(weights) > 0.01)


def of(mixture, order=ORDER, batch_size=8):
    examples = mixture.open()
    return examples, examples.ordered_indices(order, batch_size)


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(WEIGHTS, min_size=1, max_size=3), length=st.integers(0, 150), start=st.integers(0, 2**50))
def test_draws_of_a_source_are_numbered_without_gaps(weights, length, start):
    starts = [length * stage for stage in range(len(weights))]
    shares = Shares(starts, np.array(weights))
    counts = shares.counts(start)
    sources, numbers = shares(positions(start, 200))
    for source, number in zip(sources, numbers, strict=True):
        assert number == counts[source]  # the next draw of this source
        counts[source] += 1
    np.testing.assert_array_equal(counts, shares.counts(start + 200))
    assert shares.counts(start).sum() == start


@settings(max_examples=100, deadline=None)
@given(weights=WEIGHTS, draws=st.integers(0, 10**6))
def test_shares_follow_weights_at_any_time(weights, draws):
    counts = Shares([0], np.array([weights])).counts(draws).astype(float)
    expected = np.array(weights) / sum(weights) * draws
    # one half for the rounding of each source and of those before it; 2e-4 for multiples of 2**-32 in 10**6 draws
    assert abs(counts - expected).max() < 2 + 3 * 2e-4
    assert not counts[np.array(weights) == 0].any()


def test_shares_are_exact_after_2_50_draws():
    counts = Shares([0], np.array([[0.2, 0.5, 0.3]])).counts(2**50)
    np.testing.assert_allclose(counts / 2**50, [0.2, 0.5, 0.3], atol=2**-31)


def test_reweight_changes_shares():
    changes = (Reweight(at=1_000, weights={"b": 1.0}), Reweight(at=2_000, weights={"c": 3, "b": 1}, ramp=1_280))
    _, order = of(Mixture(sources={"a": A, "b": B, "c": C}, weights={"a": 1, "b": 1}, changes=changes))
    assert order.source_counts(1_000) == {"a": 500, "b": 500, "c": 0}
    assert order.source_counts(2_000) == {"a": 500, "b": 1_500, "c": 0}
    end = order.source_counts(3_280)
    # the share of c rises on a line to 0.75: half of that on average, and half a step more as steps end at the goal
    assert abs(end["c"] - 1_280 * 0.375 * (1 + 1 / 64)) < 3
    later = order.source_counts(7_280)
    assert abs(later["c"] - end["c"] - 3_000) < 3 and abs(later["b"] - end["b"] - 1_000) < 3
    actual = np.digitize(order(positions(0, 7_280)), [30, 80])
    np.testing.assert_array_equal(np.bincount(actual), list(later.values()))


def test_without_weights_sources_end_epochs_in_step():
    examples, order = of(Mixture(sources={"a": A, "b": B, "c": C}))
    for epoch in range(2):
        np.testing.assert_array_equal(np.sort(order(positions(100 * epoch, 100))), np.arange(100))
    assert len(examples) == 100 and list(examples.shard_ends) == [30, 80, 100]


@settings(max_examples=40, deadline=None)
@given(
    start=st.integers(0, 2**40),
    weights=st.tuples(*[st.floats(0.1, 5)] * 3),
    at=st.integers(1, 300),
    ramp=st.integers(0, 300),
    one_source=st.booleans(),
    order=st.sampled_from([Shuffle(seed=1), Windowed(seed=2, shards=2), Grouped(seed=3, per_group=4)]),
)
def test_mixture_resumes_at_any_position(start, weights, at, ramp, one_source, order):
    mixture = Mixture(
        sources={"a": A, "inner": Mixture(sources={"b": B, "c": C}, weights={"b": 1, "c": 2})},
        weights={"a": weights[0], "inner": weights[1]},
        changes=(Reweight(at=at, weights={"a": weights[2], "inner": 1}, ramp=ramp),),
        one_source_per_batch=one_source,
    )
    start %= 2_000
    _, whole = of(mixture, order)
    unbroken = whole(positions(0, start + 100))
    resumed = pickle.loads(pickle.dumps(of(mixture, order)[1]))
    np.testing.assert_array_equal(resumed(positions(start, 100)), unbroken[start:])
    counts = whole.source_counts(start)
    actual = np.bincount(np.digitize(unbroken[:start], [30, 80]), minlength=3)
    np.testing.assert_array_equal(actual, [counts["a"], counts["inner/b"], counts["inner/c"]])
    assert counts["inner"] == counts["inner/b"] + counts["inner/c"]


def test_each_source_has_its_own_epochs():
    _, order = of(Mixture(sources={"a": A, "b": B}, weights={"a": 3, "b": 1}))
    indices = order(positions(0, 1_200))
    a, b = indices[indices < 30], indices[indices >= 30]
    for epoch in range(30):
        np.testing.assert_array_equal(np.sort(a[30 * epoch : 30 * epoch + 30]), np.arange(30))
    for epoch in range(6):
        np.testing.assert_array_equal(np.sort(b[50 * epoch : 50 * epoch + 50]), np.arange(30, 80))
    same = Mixture(sources={"a": A, "b": A}, weights={"a": 1, "b": 1})
    indices = of(same)[1](positions(0, 60))
    assert not np.array_equal(indices[indices < 30], indices[indices >= 30] - 30)  # two sources, two orders


def test_one_source_per_batch():
    mixture = Mixture(sources={"a": A, "b": B, "c": C}, weights={"a": 1, "b": 2, "c": 1}, one_source_per_batch=True)
    _, order = of(mixture, batch_size=10)
    batches = np.digitize(order(positions(0, 400)), [30, 80]).reshape(40, 10)
    assert (batches == batches[:, :1]).all()
    np.testing.assert_array_equal(np.bincount(batches[:, 0]), [10, 20, 10])
    assert order.source_counts(15)["a"] + order.source_counts(15)["b"] == 15


def test_batch_mixes_sources():
    mixture = Mixture(sources={"a": A, "b": B, "c": C})
    examples, order = of(mixture)
    whole = np.concatenate([np.arange(30), np.arange(100, 150), np.arange(200, 220)])
    np.testing.assert_array_equal(examples.column("number"), whole)
    assert examples.column("word") == [str(number) for number in whole]
    rows = np.array([99, 0, 35, 1, 80])
    actual = examples.gather(rows)
    np.testing.assert_array_equal(actual["number"], whole[rows])
    assert actual["word"] == [str(number) for number in whole[rows]]
    assert examples[-1]["number"] == 219 and examples[30]["word"] == "100"
    with pytest.raises(IndexError):
        examples[100]
    hosts = [(slice(0, 8), workers) for workers in (0, 2)] + [(slice(row, row + 2), 0) for row in (0, 2, 4, 6)]
    for rows, workers in hosts:
        loader = Loader(examples, order, 8, position=16, rows=rows, workers=workers)
        batch = next(loader)
        loader.close()
        np.testing.assert_array_equal(batch["number"], whole[order(positions(16, 8))][rows])


def test_mixture_of_filtered_sources():
    few = Filter(source=B, where=(Where(column="number", at_least=120, at_most=129), Where(column="label", at_most=1)))
    examples, order = of(Mixture(sources={"a": A, "few": few}, weights={"a": 1, "few": 1}))
    numbers = examples.gather(order(positions(0, 28)))["number"]
    assert sorted(numbers[numbers >= 100].tolist()) == sorted([120, 121, 123, 124, 126, 127, 129] * 2)


def test_problems_are_reported():
    def text(**fields):
        return "\n".join(problems(Mixture(**{"sources": {"a": A, "b": B}, **fields})))

    assert text() == ""
    assert text(weights={"a": 1, "bb": 1}).startswith("weights names 'bb', which is no source; did you mean b?")
    assert "one of them above 0" in text(weights={"a": 0.0}) and "weights.a" in text(weights={"a": -1.0, "b": 2})
    twice = (Reweight(at=10, weights={"a": 1}, ramp=5), Reweight(at=12, weights={"b": 1}))
    assert text(changes=twice).startswith("changes.1 begins at example 12, before the ramp of the change before it")
    assert "changes.0" in text(changes=(Reweight(at=0, weights={"a": 1}),))
    other = text(sources={"a": A, "b": Numbers(name="n")})
    assert "sources.a and sources.b differ in 'n': none and Field(" in other and "data.SelectFields" in other
    assert "sources is empty" in text(sources={})
    inner = Mixture(sources={"b": B}, one_source_per_batch=True)
    assert "share batches" in text(sources={"a": A, "inner": inner})
    with pytest.raises(UsageError, match="the source 'b' of the mixture has no examples"):
        Mixture(sources={"a": A, "b": Numbers(length=0)}).open()
