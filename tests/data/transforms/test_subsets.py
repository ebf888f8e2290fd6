"""Subsets keep the examples that they name, nothing else changes, and draws are nested."""

import tracemalloc

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.orders.groups import Grouped
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms.mixture import Mixture
from jaxrep.data.transforms.subsets import FewShot, Filter, Fraction, Take, Where
from jaxrep.errors import UsageError
from jaxrep.report.space import matches
from jaxrep.spec import problems, spec
from tests.helpers.pairs import N, PairExamples, Pairs


def test_take_keeps_first_examples_and_shard_ends():
    whole, few = Pairs().open(), Take(source=Pairs(), count=4).open()
    assert len(few) == 4 and list(few.column("score")) == list(whole.column("score")[:4])
    assert list(few.shard_ends) == [3, 3, 4, 4] and few.shard(3) == whole.shard(3)
    assert len(Take(source=Pairs(), count=10**6).open()) == len(whole)


TABLE = {}


@spec
class Labeled(Source):
    def fields(self):
        return {"label": Field((), "int32", 4)}

    def open(self):
        return TABLE["examples"]


def test_few_shot_draws_equal_counts_and_nested_sets():
    labels = np.random.default_rng(0).integers(-1, 4, 60)
    TABLE["examples"] = Columns({"label": labels})
    drawn = {}
    for count in (1, 3, 40):
        few = FewShot(source=Labeled(), count=count, seed=5).open()
        kept = np.asarray(few.column("label"))
        assert dict(zip(*np.unique(kept, return_counts=True), strict=True)) == {
            k: min(count, int(np.sum(labels == k))) for k in range(4)
        }
        drawn[count] = set(few._indices.tolist())
    assert drawn[1] < drawn[3] < drawn[40]
    other = FewShot(source=Labeled(), count=3, seed=6).open()
    assert set(other._indices.tolist()) != drawn[3]


def test_filter_keeps_examples_that_meet_all_conditions():
    where = (Where(column="score", at_least=0.2, at_most=0.9), Where(column="license", among=("by", "by-sa")))
    examples = Filter(source=Pairs(), where=where).open()
    kept = [i for i in range(N) if i != 5 and 0.2 <= i / 10 <= 0.9 and i % 3 < 2]
    assert examples.column("caption") == [f"c{i}" for i in kept] and len(examples) == len(kept)
    assert [examples[i]["caption"] for i in (0, 1)] == ["c3", "c4"]
    assert examples.gather(np.array([2, 0]))["caption"] == ["c6", "c3"]
    assert [examples.shard(i) for i in range(len(kept))] == [PairExamples().shard(i) for i in kept]
    assert list(examples.shard_ends) == [0, 0, 4, 5]
    np.testing.assert_array_equal(np.sort(Shuffle().indices(examples, 1)(np.arange(5, dtype=np.uint64))), np.arange(5))
    with pytest.raises(UsageError, match="Filter keeps none of 12 examples"):
        Filter(source=Pairs(), where=(Where(column="score", at_least=2.0),)).open()
    assert len(problems(Where(column="a", at_least=1.0, among=("b",)))) == 1
    assert len(problems(Where(column="a", at_least=1.0, at_most=0.0))) == 1


def test_empty_subset_is_an_error():
    class Unlabeled(Pairs):
        def fields(self):
            return {"label": Field((), "int32")}

        def open(self):
            return Columns({"label": np.array([-1, -1])})

    with pytest.raises(UsageError, match="FewShot keeps none of 2 examples"):
        FewShot(source=Unlabeled(), count=3).open()


def test_a_condition_is_stated_and_numbers_may_be_texts():
    assert problems(Where(column="score")) == ["it has no condition: give at_least, at_most or among"]
    condition = Where(column="score", at_least=0.3)
    assert condition(["0.4", "", "0.1", "3e-1"]).tolist() == [True, False, False, True]
    with pytest.raises(UsageError, match=r"'score' holds words, as 'none', and numbers are compared: give among=\(…\)"):
        condition(["0.4", "none"])


def test_whole_numbers_are_words_without_a_point():
    license_ = Where(column="license", among=("1", "4"))
    texts = ["1", "2", "", "4"]  # as one shard has them; another has numbers
    assert license_(texts).tolist() == license_(np.array([1, 2, np.nan, 4])).tolist() == [True, False, False, True]
    assert license_(np.array([1, 2, 4], np.int32)).tolist() == [True, False, True]
    assert Where(column="n", among=("1.0", "0.5"))(np.array([1, 0.5, 2])).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            Filter(source=Pairs(), where=(Where(column="license", among="by"),)),  # pyright: ignore
            r"Filter cannot be opened: where\.0\.among: expected tuple\[str, \.\.\.\], got str 'by'",
        ),
        (
            Take(source=Filter(source=Pairs(), where=(Where(column="score", at_least="0.3"),)), count=1),  # pyright: ignore
            r"Take cannot be opened: source\.where\.0\.at_least: expected float, got str '0\.3'",
        ),
        (Fraction(source=Pairs(), share=2), r"Fraction cannot be opened: share: expected a number"),
        (Filter(source=Pairs(), where=(Where(column="score"),)), r"where\.0: it has no condition"),
    ],
)
def test_opening_checks_values_as_training_does(source, message):
    with pytest.raises(UsageError, match=message) as error:
        source.open()
    assert len(str(error.value).splitlines()) == 1


def test_subset_of_a_mixture_is_a_problem():
    assert "not around the mixture" in problems(Filter(source=Mixture(sources={"a": Pairs()}), where=()))[0]


# Fraction


@spec
class Numbers(Source):
    count: int = 4000

    def fields(self):
        return {"number": Field((), "int32")}

    def open(self):
        return Columns({"number": np.arange(self.count, dtype=np.int32)})


def fraction(**changes):
    return set(Fraction(source=Numbers(), **changes).open().column("number").tolist())


def test_fraction_and_rest_are_the_whole():
    half = fraction(share=0.5)
    assert half | fraction(share=0.5, rest=True) == set(range(4000)) and not half & fraction(share=0.5, rest=True)
    assert len(half) == pytest.approx(2000, abs=130)  # four standard deviations
    assert fraction(share=0.1) < half < fraction(share=0.9)
    assert len(fraction(share=0.5, seed=1) & half) == pytest.approx(1000, abs=130)


def test_fraction_by_column_keeps_groups():
    taken = np.array(sorted(Fraction(source=Classes(), share=0.5, by="kind").open().column("number")))
    kinds = np.arange(4000) // 8
    assert len(taken) == pytest.approx(2000, abs=4 * 90) and set(kinds[taken]).isdisjoint(
        kinds[sorted(set(range(4000)) - set(taken.tolist()))]
    )


@spec
class Classes(Numbers):
    def fields(self):
        return {**super().fields(), "kind": Field((), "int32")}

    def open(self):
        numbers = np.arange(self.count, dtype=np.int32)
        return Columns({"number": numbers, "kind": numbers // 8})


@pytest.mark.parametrize(
    "read",
    [
        lambda examples: Grouped(by="text", per_group=2).indices(examples, 4)(np.arange(9, dtype=np.uint64)),
        lambda examples: FewShot(source=Labeled(), count=1, label="text").indices(examples),
        lambda examples: Where(column="text", among=("text 1", "text 7"))(examples.column("text")),
        lambda examples: matches(None, None, examples.column("text")[::10]),
    ],
    ids=["Grouped", "FewShot", "Where", "matches"],
)
def test_one_long_text_costs_its_own_length(read):
    """An array of strings is as wide as its longest: 5,000 texts and one of 100,000 characters would take 2 GB."""
    texts = [f"text {n // 2}" for n in range(5_000)]
    expected = read(Columns({"text": [*texts, "~"]}))
    tracemalloc.start()
    found = read(Columns({"text": [*texts, "~" * 100_000]}))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6
    np.testing.assert_array_equal(found, expected)


def test_few_shot_leaves_out_unknown_classes():
    for labels in (["", "b", "a", "b", ""], np.array([-1, 1, 0, 1, -1])):
        few = FewShot(source=Labeled(), count=5).indices(Columns({"label": labels}))
        assert few.tolist() == [1, 2, 3]


def test_fraction_by_strings_is_one_sentence():
    with pytest.raises(UsageError, match="by='text' is a column of strings, and a fraction is drawn by integers"):
        Fraction(source=Labeled(), share=0.5, by="text").indices(Columns({"text": ["a", "b"]}))
