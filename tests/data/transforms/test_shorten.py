"""Texts that training shortens: which words are kept, how they are drawn, and what stays whole."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data._util.hashing import content_id
from jaxrep.data.loading.loader import Tokenize
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.source import Columns, Source
from jaxrep.data.tokenizers.base import Words
from jaxrep.data.transforms.shorten import ORDER, ShortenTexts, shorten, word_ranks
from jaxrep.data.transforms.subsets import Take
from jaxrep.data.transforms.word_swaps import Span, tagger
from jaxrep.errors import UsageError
from jaxrep.spec import problems, spec

TEXTS = [
    "a red cat is running by the old house",
    "a red  cat",
    "",
    "the the the the dog",
    "one two three four",
    "ein großer हिन्दी चाय und noch mehr",
]


@spec
class Texts(Source):
    """Texts with ids of their own, beside a number."""

    def fields(self):
        return {"text": Field((), "str"), "text_id": Field((), "int32"), "label": Field((), "int32")}

    def open(self):
        rows = np.arange(len(TEXTS), dtype=np.int32)
        return Columns({"text": TEXTS, "text_id": rows, "label": rows})


def kept(keep, words=3, keys=None, **fields):
    rows = np.arange(len(TEXTS))
    keys = rows.astype(np.uint64) if keys is None else keys
    return ShortenTexts(source=Texts(), words=words, keep=keep, **fields).open().gather(rows, keys)


def test_first_words_are_those_of_the_split_text_and_short_texts_stay_as_they_are():
    assert kept("first")["text"] == ["a red cat", "a red  cat", "", "the the the", "one two three", "ein großer हिन्दी"]


def test_syntax_keeps_nouns_then_adjectives_then_verbs_in_their_order():
    text = TEXTS[0]
    keeps = [shorten(text, count, "syntax", np.uint64(0), tagger()) for count in range(1, 7)]
    assert keeps == [
        "cat",
        "cat house",
        "red cat house",
        "red cat old house",
        "red cat running old house",
        "a red cat running old house",
    ]
    assert kept("syntax")["text"][3] == "the the dog"  # of equal rank, the earlier ones


def test_ranks_are_those_of_the_best_span_that_overlaps_a_word():
    text = "red, red (cat)! xcat"
    spans = [Span(0, 3, "adjective"), Span(5, 8, "verb"), Span(5, 14, "noun_phrase"), Span(10, 13, "noun")]
    ranks = word_ranks(text, text.split(), spans)
    assert [(*ORDER, "other")[rank] for rank in ranks] == ["adjective", "verb", "noun", "other"]


@pytest.mark.parametrize("keep", ["random", "block"])
def test_draws_are_uniform_over_what_may_be_kept_and_follow_from_the_key(keep):
    words, count, draws = ["a", "b", "c", "d", "e"], 2, 4_000
    keys = np.arange(draws, dtype=np.uint64)
    source = ShortenTexts(source=Repeated(), words=count, keep=keep).open()
    found = source.gather(np.zeros(draws, int), keys)["text"]
    assert found == source.gather(np.zeros(draws, int), keys)["text"]
    assert found[:9] == source.gather(np.zeros(9, int), keys[:9])["text"]
    pairs = {f"{a} {b}" for i, a in enumerate(words) for b in words[i + 1 :]}
    blocks = {" ".join(words[i : i + count]) for i in range(4)}
    counts, expected = Counter(found), pairs if keep == "random" else blocks
    assert set(counts) == expected
    mean = draws / len(expected)  # four standard deviations of a count
    assert all(abs(number - mean) < 4 * np.sqrt(mean) for number in counts.values())


@spec
class Repeated(Source):
    """One text of five words."""

    def fields(self):
        return {"text": Field((), "str")}

    def open(self):
        return Columns({"text": ["a b c d e"]})


def test_texts_that_became_equal_have_equal_ids_in_training():
    columns = kept("first", words=1)
    assert columns["text"][:3] == ["a", "a", ""] and columns["label"].tolist() == list(range(6))
    np.testing.assert_array_equal(columns["text_id"], [content_id(text.encode()) for text in columns["text"]])
    assert columns["text_id"].dtype == np.int32
    without = ShortenTexts(source=Repeated(), words=1)
    assert set(without.open().gather(np.array([0]), np.array([3], np.uint64))) == set(without.fields()) == {"text"}


def test_outside_training_and_as_a_column_texts_and_ids_are_the_sources():
    examples, rows = ShortenTexts(source=Texts(), words=1).open(), np.arange(len(TEXTS))
    columns = examples.gather(rows)
    assert columns["text"] == TEXTS == examples.column("text")
    np.testing.assert_array_equal(columns["text_id"], rows)
    np.testing.assert_array_equal(examples.column("text_id"), rows)
    np.testing.assert_array_equal(examples.sizes("text"), [len(text.encode()) for text in TEXTS])
    assert examples.read_from("text") == Texts().open().read_from("text")


def test_long_and_broken_texts_are_read_from_their_start():
    assert shorten("word " * 1_000_000, 2, "block", np.uint64(5), tagger()) == "word word"
    assert len(shorten("x" * 1_000_000, 2, "random", np.uint64(5), tagger())) <= 1_000
    lone = ShortenTexts(source=Repeated(), words=1)
    columns = lone.transform({"text": ["\ud800 x"]}, np.arange(1), np.arange(1, dtype=np.uint64))
    assert columns["text"] == ["\ud800"]


def test_a_tokenizer_cuts_what_is_kept_and_learns_its_words_from_whole_texts():
    source = Take(source=OpenMoji(image_size=24), count=200)
    examples = ShortenTexts(source=source, words=2).open()
    tokenizer = Words(length=6).load(examples.column("text"))
    assert tokenizer.state == Words(length=6).load(source.open().column("text")).state
    columns = examples.gather(np.arange(200), np.arange(200, dtype=np.uint64))
    valid = Tokenize(tokenizer)(columns)["text/valid"]
    assert valid.sum(1).max() <= 5  # "medium-light" is one word; start and end


def test_several_texts_of_an_example_are_told():
    rows = {"text": [("a b", "c d"), "e f"]}
    source = ShortenTexts(source=Repeated(), words=1)
    columns = source.transform(rows, np.arange(2), np.arange(2, dtype=np.uint64))
    with pytest.raises(UsageError, match="holds several captions of an example"):
        Tokenize(Words(length=6).load(["a"]), single=("text",))(columns)


def test_problems():
    source = ShortenTexts(source=Texts(), words=2)
    assert not problems(source)
    assert problems(dataclasses.replace(source, words=0)) == ["words: expected a number of at least 1, got 0"]
    assert problems(dataclasses.replace(source, field="label"))[0].startswith("the field 'label' is ")
    assert problems(dataclasses.replace(source, keep="random", spacy="en_core_web_sm")) == [
        "spacy = 'en_core_web_sm' tags parts of speech, which keep = 'random' does not read: leave it out"
    ]
    with pytest.raises(UsageError, match="pip install 'jaxrep"):
        dataclasses.replace(source, spacy="no_such_model").open()
