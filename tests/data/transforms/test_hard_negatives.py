"""Hard negative captions are drawn by key, may be absent, and have ids."""

import re
import tracemalloc

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms import word_swaps
from jaxrep.data.transforms.hard_negatives import HardNegativeCaptions
from jaxrep.spec import problems, spec

CAPTIONS = [
    "a red ball on a blue book",
    "man: light skin tone",
    "woman: light skin tone",
    "a thing",
    "man: dark skin tone",
    "A cat sits on a mat",
]
SAID = ["ball | is | red\nbook | is | blue\nball | on | book", "", "", "", "", "cat | sits on | mat"]


@spec
class Captioned(Source):
    """Six captions with their triples."""

    def fields(self):
        return {"text": Field((), "str"), "triples": Field((), "str"), "image_id": Field((), "int32")}

    def open(self):
        return Columns({"text": CAPTIONS, "triples": SAID, "image_id": np.arange(6, dtype=np.int32)})


def drawn(keys=200, **options):
    """For each caption, every wrong caption that the keys draw."""
    examples, rows = HardNegativeCaptions(source=Captioned(), **options).open(), np.repeat(np.arange(6), keys)
    actual = examples.gather(rows, np.arange(6 * keys, dtype=np.uint64) << np.uint64(9))
    np.testing.assert_array_equal(actual["negative/present"], [text != "" for text in actual["negative"]])
    return [set(actual["negative"][i * keys : (i + 1) * keys]) for i in range(6)]


def test_replaced_phrases_exclude_the_original():
    actual = drawn(ways=("replace",), kinds=("gender",))
    assert actual == [{""}, {"woman: light skin tone"}, {"man: light skin tone"}, {""}, {"woman: dark skin tone"}, {""}]
    assert len(drawn(ways=("replace",))[1]) == 1 + 4  # of the other gender, or in one of four other tones


def test_phrases_of_one_kind_are_exchanged():
    assert drawn(kinds=("noun",))[0] == {"a red book on a blue ball"}
    assert drawn(kinds=("noun", "adjective"))[0] == {"a red book on a blue ball", "a blue ball on a red book"}


def test_graph_exchanges_objects_and_attributes():
    actual = drawn(ways=("graph",))
    assert actual[0] == {"a red book on a blue ball", "a blue ball on a red book"}
    assert actual[5] == {"A mat sits on a cat"} and actual[1] == {""}


def test_graph_is_parsed_from_name():
    actual = drawn(ways=("graph",), triples="text", form="names")
    assert actual[0] == {"a blue book on a red ball"} and actual[1] == {""}


def test_only_known_uses_captions_of_the_data():
    actual = drawn(ways=("replace",), only_known=True)
    assert actual[1:3] == [{"woman: light skin tone", "man: dark skin tone"}, {"man: light skin tone"}]
    assert actual[0] == {""}


def test_ids_of_wrong_and_true_captions_agree_and_draws_repeat():
    examples = HardNegativeCaptions(source=Captioned(), ways=("replace",), kinds=("gender",)).open()
    rows = examples.gather(np.arange(6))
    assert rows.keys() == {"text", "text_id", "negative", "negative_id", "negative/present", "triples", "image_id"}
    assert rows["negative_id"][1] == rows["text_id"][2] and rows["negative_id"][2] == rows["text_id"][1]
    assert len(set(rows["text_id"])) == 6
    for name, values in rows.items():
        np.testing.assert_array_equal(examples.column(name), values)
    examples = HardNegativeCaptions(source=Captioned(), ways=("replace",)).open()
    keys = np.array([7, 8, 9, 7], np.uint64)
    one, other = (examples.gather(np.array([1, 2, 0, 1]), keys)["negative"] for _ in range(2))
    assert one == other and one[0] == one[3]


@spec
class Several(Captioned):
    """Two captions per example."""

    def fields(self):
        return {"text": Field((2,), "str")}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (HardNegativeCaptions(source=Several()), "the field 'text' is Field.* and not one text per example"),
        (HardNegativeCaptions(source=Captioned(), ways=()), "ways is empty"),
        (HardNegativeCaptions(source=Captioned(), ways=("graph",), triples="graph"), "the source has no field 'graph'"),
    ],
)
def test_problems_are_reported(source, sentence):
    assert re.search(sentence, problems(source)[0])


@pytest.mark.parametrize("way", ["replace", "exchange", "graph"])
def test_memory_and_time_of_a_long_caption_are_bounded(way):
    """All pairs of phrases of a caption of 200 kB would take terabytes."""
    caption = ", ".join(f"a red cat on the left of a green dog {n}" for n in range(5_000))
    triples = "\n".join(f"cat {n} | is | red {n}" for n in range(5_000))
    source = HardNegativeCaptions(source=Captioned(), ways=(way,))
    tracemalloc.start()
    wrong = source.wrong(caption, triples, word_swaps.read())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (wrong or way == "graph") and peak < 3e8
    assert all(len(negative.text) < 3_000 for negative in wrong)
