"""First sentences with ids that are equal for equal sentences, and drawn sub-captions."""

import dataclasses
from collections import Counter

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.source import Columns, Source
from jaxrep.data.transforms.sentences import FirstSentence, SubCaptions
from jaxrep.data.transforms.subsets import Take
from jaxrep.spec import problems, spec

SOURCE = Take(source=OpenMoji(image_size=24), count=400)


def test_first_sentence_ends_at_the_given_end():
    source = FirstSentence(source=SOURCE, end=": ")
    examples = source.open()
    names = examples.column("text")
    columns = examples.gather(np.arange(len(examples)))
    assert columns["text"] == list(names)
    assert columns["short"] == examples.column("short") == [name.split(": ")[0] for name in names]
    assert any(short != name for short, name in zip(columns["short"], names, strict=True))
    same = columns["short_id"][:, None] == columns["short_id"]
    np.testing.assert_array_equal(same, np.array([[a == b for b in columns["short"]] for a in columns["short"]]))
    assert columns["short_id"].dtype == np.int32 and columns["short_id"].min() >= 0


def test_first_sentence_problems():
    assert problems(FirstSentence(source=SOURCE, field="caption"))[0].startswith("the source has no field 'caption'")
    assert problems(FirstSentence(source=SOURCE, end="")) == ["end is empty: give the characters that end a sentence"]
    many = OpenMoji(languages=("en", "de"))
    assert "not one text per example" in problems(FirstSentence(source=many))[0]


LONG = [
    ("a dog", "A dog runs. It is brown.\nThe grass is green.", "Sunny day."),
    ("a cat", "One sentence only", ""),
    ("nothing", "", " . "),
]


@spec
class Captions(Source):
    """Three captions with two long ones each."""

    def fields(self):
        return {name: Field((), "str") for name in ("text", "long", "more")}

    def open(self):
        return Columns(
            {name: list(column) for name, column in zip(self.fields(), zip(*LONG, strict=True), strict=True)}
        )


MANY = SubCaptions(source=Captions(), long=("long", "more"), count=2)
SENTENCES = {"A dog runs", "It is brown", "The grass is green", "Sunny day"}


def test_sub_captions_are_the_caption_and_drawn_sentences():
    examples, rows = MANY.open(), np.arange(3)
    assert MANY.fields() == {"text": Field((3,), "str")}
    drawn = [examples.gather(rows, np.arange(3, dtype=np.uint64) + 3 * epoch)["text"] for epoch in range(60)]
    assert drawn[0] == examples.gather(rows, rows.astype(np.uint64))["text"]
    for dog, cat, nothing in drawn:
        assert dog[0] == "a dog" and len(set(dog[1:])) == 2 and set(dog[1:]) <= SENTENCES
        assert cat == ("a cat", "One sentence only", "One sentence only")
        assert nothing == ("nothing",) * 3
    # 60 draws of two of four: each is seen 30 times, give or take four standard deviations.
    counts = Counter(sentence for dog, _, _ in drawn for sentence in dog[1:])
    assert all(abs(counts[sentence] - 30) < 4 * np.sqrt(15) for sentence in SENTENCES)


def test_sub_captions_without_keys_and_as_column():
    examples = MANY.open()
    assert examples.gather(np.array([0]))["text"] == [("a dog", "A dog runs", "It is brown")]
    assert examples.column("text")[0] == ("a dog", "A dog runs", "It is brown", "The grass is green", "Sunny day")


def test_sub_captions_problems():
    assert problems(dataclasses.replace(MANY, long=())) == ["long is empty: name the fields of the long captions"]
