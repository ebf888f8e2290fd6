"""Fields, rows, captions and weights of a source: what is taken, and that nothing else changes."""

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.source import Columns, Examples, Source
from jaxrep.data.transforms.captions import SampleCaption
from jaxrep.data.transforms.mixture import Mixture
from jaxrep.data.transforms.select import FewShot, Filter, SelectFields, Take, Weighted, Where
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import problems, spec

N = 12
SCORES = np.where(np.arange(N) == 5, np.nan, np.arange(N) / 10)


@spec
class Pairs(Source):
    """Pictures, a caption each and three more, a score and a license as metadata."""

    def fields(self):
        number, text = Field((), "int32"), Field((), "str")
        several = {"more": Field((3,), "str"), "more_id": Field((3,), "int32")}
        return {"image": Field((2, 2, 3), "uint8"), "caption": text, "caption_id": number, **several}

    def open(self):
        return PairExamples()


METADATA = {"score": SCORES, "license": ["by", "by-sa", ""] * 4}
CAPTIONS = [f"c{i}" for i in range(N)]
MORE = [tuple(f"m{i}-{view}" for view in range(3)) for i in range(N)]


class PairExamples(Examples):
    def __len__(self):
        return N

    @property
    def ends(self):
        return np.array([3, 3, 8, N])

    def shard(self, index):
        return f"{np.searchsorted(self.ends, index, side='right')}.tar"

    def __getitem__(self, index):
        if index == 7:
            raise BadSample("2.tar, member 7", "it is empty")
        return {
            "image": np.full((2, 2, 3), index, np.uint8),
            "caption": CAPTIONS[index],
            "caption_id": np.int32(index),
            "more": MORE[index],
            "more_id": np.array([100 + index, 200 + index, 300 + index], np.int32),
        }

    def column(self, name):
        return {**METADATA, "caption": CAPTIONS, "more": MORE}[name]


ROWS = np.array([4, 0, 11, 6])
KEYS = np.arange(4, dtype=np.uint64)


def test_fields_have_other_names_and_the_rest_is_gone():
    source = SelectFields(source=Pairs(), names={"image": "image", "text": "caption", "text_id": "caption_id"})
    assert source.fields() == {
        "image": Field((2, 2, 3), "uint8"),
        "text": Field((), "str"),
        "text_id": Field((), "int32"),
    }
    examples = source.open()
    found = examples.gather(ROWS, KEYS)
    assert list(found) == ["image", "text", "text_id"] and found["text"] == ["c4", "c0", "c11", "c6"]
    assert examples[3]["text"] == "c3" and examples.column("text")[2] == "c2"
    np.testing.assert_array_equal(examples.column("score"), SCORES)  # an order or a filter may want it
    assert examples.shard(4) == "2.tar" and list(examples.ends) == [3, 3, 8, N]
    assert "did you mean caption?" in problems(SelectFields(source=Pairs(), names={"text": "captoin"}))[0]


def test_every_example_has_a_weight():
    source = Weighted(source=Pairs(), column="score", default=0.5)
    assert source.fields()["weight"] == Field((), "float32")
    found = source.open().gather(ROWS)
    assert found["weight"].dtype == np.float32
    np.testing.assert_array_equal(found["weight"], np.array([0.4, 0, 1.1, 0.6], np.float32))
    assert source.open()[5]["weight"] == 0.5


def test_the_first_examples_are_those_of_the_source_and_end_where_its_shards_do():
    whole, few = Pairs().open(), Take(source=Pairs(), count=4).open()
    assert len(few) == 4 and list(few.column("score")) == list(whole.column("score")[:4])
    assert list(few.ends) == [3, 3, 4, 4] and few.shard(3) == whole.shard(3)
    assert len(Take(source=Pairs(), count=10**6).open()) == len(whole)
    assert problems(Take(source=Pairs(), count=0)) == ["count is a number of examples: at least 1, got 0"]


def test_shots_are_as_many_of_each_class_and_fewer_are_among_more():
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


TABLE = {}


@spec
class Labeled(Source):
    def fields(self):
        return {"label": Field((), "int32", 4)}

    def open(self):
        return TABLE["examples"]


def test_what_stands_in_for_a_bad_sample_brings_its_own_weight():
    source = Weighted(source=SelectFields(source=Pairs(), names={"text": "caption"}), column="score")
    asked = []
    found = source.open().gather(np.array([1, 7]), KEYS[:2], lambda row, error: asked.append((row, str(error))) or 9)
    assert asked == [(1, "2.tar, member 7: it is empty")]
    assert found["text"] == ["c1", "c9"]
    np.testing.assert_array_equal(found["weight"], np.array([0.1, 0.9], np.float32))
    few = Filter(source=Pairs(), where=(Where(column="score", at_least=0.6),)).open()
    assert few.gather(np.array([1]), KEYS[:1], lambda row, error: 2)["caption"] == ["c8"]


def test_rows_are_those_that_fulfil_all_conditions():
    where = (Where(column="score", at_least=0.2, at_most=0.9), Where(column="license", among=("by", "by-sa")))
    examples = Filter(source=Pairs(), where=where).open()
    taken = [i for i in range(N) if i != 5 and 0.2 <= i / 10 <= 0.9 and i % 3 < 2]
    assert examples.column("caption") == [f"c{i}" for i in taken] and len(examples) == len(taken)
    assert [examples[i]["caption"] for i in (0, 1)] == ["c3", "c4"]
    assert examples.gather(np.array([2, 0]))["caption"] == ["c6", "c3"]
    assert [examples.shard(i) for i in range(len(taken))] == [PairExamples().shard(i) for i in taken]
    assert list(examples.ends) == [0, 0, 4, 5]
    np.testing.assert_array_equal(np.sort(Shuffle().over(examples, 1)(np.arange(5, dtype=np.uint64))), np.arange(5))
    with pytest.raises(UsageError, match="none of 12 examples fulfils the conditions"):
        Filter(source=Pairs(), where=(Where(column="score", at_least=2.0),)).open()
    assert len(problems(Where(column="a", at_least=1.0, among=("b",)))) == 1
    assert len(problems(Where(column="a", at_least=1.0, at_most=0.0))) == 1


def test_captions_are_drawn_with_their_probabilities_and_alike_each_time():
    source = SampleCaption(source=Pairs(), probabilities={"caption": 1, "more": 3})
    assert list(source.fields()) == ["image", "text", "text_id"]
    examples = source.open()
    rows, keys = np.zeros(8_000, np.int64) + 4, np.arange(8_000, dtype=np.uint64)
    found = examples.gather(rows, keys)
    kinds, counts = np.unique(found["text"], return_counts=True)
    assert kinds.tolist() == ["c4", "m4-0", "m4-1", "m4-2"]
    assert abs(counts - 2_000).max() < 5 * np.sqrt(8_000 * 0.25 * 0.75)  # five standard deviations
    ids = {"c4": 4, "m4-0": 104, "m4-1": 204, "m4-2": 304}
    assert found["text_id"].tolist() == [ids[text] for text in found["text"]]
    again = examples.gather(rows[500:600], keys[500:600])  # a draw depends on its own key alone
    assert again["text"] == found["text"][500:600]


def test_outside_training_no_caption_is_drawn():
    examples = SampleCaption(source=Pairs(), probabilities={"more": 1, "caption": 1}).open()
    assert examples[3]["text"] == "m3-0" and examples.gather(ROWS)["text"][0] == "m4-0"
    assert examples.column("text")[3] == ("m3-0", "m3-1", "m3-2", "c3")  # a tokenizer learns from all


def test_what_cannot_be_taken_is_said():
    assert "no field 'title'" in problems(SampleCaption(source=Pairs(), probabilities={"title": 1}))[0]
    assert "no text" in problems(SampleCaption(source=Pairs(), probabilities={"caption_id": 1}))[0]
    assert "numbers from 0 on" in problems(SampleCaption(source=Pairs(), probabilities={"caption": 0}))[0]
    mixture = Mixture(sources={"a": Pairs()})
    assert "not around the mixture" in problems(Filter(source=mixture, where=()))[0]


def test_examples_in_memory_are_weighted_too():
    class Held(Pairs):
        def open(self):
            return Columns({"caption": ["a", "b"], "score": np.array([2.0, 3.0])})

    found = Weighted(source=Held(), column="score").open().gather(np.array([1, 0]))
    assert found["caption"] == ["b", "a"] and found["weight"].tolist() == [3.0, 2.0]


def test_a_selection_of_nothing_is_told():
    class Unlabeled(Pairs):
        def open(self):
            return Columns({"label": np.array([-1, -1])})

    with pytest.raises(UsageError, match="none of 2 examples is left"):
        FewShot(source=Unlabeled(), count=3).open()
