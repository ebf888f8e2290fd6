import dataclasses
import itertools
import json
import pickle
import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxrep.data.tokenizers.base import (
    BOS,
    CHARACTERS_PER_TOKEN,
    EOS,
    PAD,
    SHORT_RUN,
    UNKNOWN,
    Bytes,
    Words,
    normalize_lower,
    order_marks,
    text_start,
)
from jaxrep.data.tokenizers.subwords import fix
from jaxrep.errors import UsageError
from jaxrep.spec import problems

NAMES = ["Woman: light skin tone", "woman: dark skin tone", "flag: Côte d’Ivoire", "keycap: 10", ""]


def oracle_bytes(text: str, length: int) -> list[int]:
    content = [3 + b for b in text.encode("utf-8")][: length - 2]
    return [BOS, *content, EOS] + [PAD] * (length - 2 - len(content))


@pytest.mark.parametrize("text", ["", "a", "café", "👩🏽‍🚀", "\0\n\x7f", "woman: dark skin tone"])
def test_bytes_match_oracle(text):
    encodings = Bytes(length=8).load()([text])
    assert encodings.ids.tolist() == [oracle_bytes(text, 8)]
    assert encodings.valid.tolist() == [[token != PAD for token in oracle_bytes(text, 8)]]


def test_encodings_of_no_text():
    ids, valid = Bytes(length=5).load()([])
    assert (ids.shape, ids.dtype, valid.shape, valid.dtype) == ((0, 5), np.int32, (0, 5), np.bool_)


def test_bytes_decode():
    tokenizer = Bytes(length=64).load()
    assert tokenizer.decode(tokenizer(NAMES).ids) == NAMES


def test_bytes_vocab_size():
    pieces = Bytes(length=64).load().pieces
    assert sorted(pieces.encode([bytes(range(128)).decode()])[0]) == list(range(3, 131))
    assert Bytes(length=64).vocab_size == 3 + 256  # special ids and bytes


def test_words_are_ordered_by_frequency_then_alphabet():
    tokenizer = Words(length=8, max_words=5).load(NAMES)
    assert tokenizer.state == {"words": ["skin", "tone", "woman", "10", "côte"]}
    ids = tokenizer(["Woman, TONE; ivoire 10!"]).ids
    assert ids.tolist() == [[BOS, 6, 5, UNKNOWN, 7, EOS, PAD, PAD]]
    assert tokenizer.decode(ids) == ["woman tone [unknown] 10"]


def test_words_do_not_depend_on_text_order():
    shuffled = random.Random(0).sample(NAMES, len(NAMES))
    assert Words(length=8).read(shuffled) == Words(length=8).read(iter(NAMES))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("d’Ivoire's", ["d’ivoire's"]),
        ("E\N{COMBINING ACUTE ACCENT}tat", ["état"]),  # decomposed, as some file systems and keyboards write it
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # marks belong to their letters
        ("ΟΔΟΣ", ["οδος"]),
        ("笑い泣き 2-in-1", ["笑い泣き", "2-in-1"]),  # a hyphen inside a word belongs to it
    ],
)
def test_words_in_any_script(text, words):
    tokenizer = Words(length=16).load([text])
    assert sorted(tokenizer.state["words"]) == sorted(words)
    assert tokenizer.decode(tokenizer([text]).ids) == [" ".join(words)]


@pytest.mark.parametrize("spec", [Bytes(length=5), Words(length=5)], ids=lambda spec: type(spec).__name__)
def test_long_text_is_cut_and_keeps_eos(spec):
    tokenizer = spec.load(NAMES)
    long, short = tokenizer(["woman " * 1000, "woman woman woman"[: 3 if isinstance(spec, Bytes) else None]])[0]
    assert (long[0], long[-1]) == (BOS, EOS)
    np.testing.assert_array_equal(long, short)


@pytest.mark.parametrize("spec", [Bytes(length=12), Words(length=12)], ids=lambda spec: type(spec).__name__)
def test_tokenizer_restores_from_json_state_and_pickle(spec):
    tokenizer = spec.load(NAMES)
    texts = [*NAMES, "never seen 🏳️‍🌈"]
    kept = [spec.restore(json.loads(json.dumps(tokenizer.state))), pickle.loads(pickle.dumps(tokenizer))]
    for other in kept:
        np.testing.assert_array_equal(other(texts).ids, tokenizer(texts).ids)
        np.testing.assert_array_equal(other(texts).valid, tokenizer(texts).valid)


def test_words_vocab_size():
    assert Words(length=16, max_words=100).vocab_size == 104  # and padding, start, end, unknown


def test_tokenizer_errors():
    assert problems(Bytes(length=2)) == ["length: expected a number of at least 3, got 2"]
    assert problems(Words(length=16, max_words=0)) == ["max_words: expected a number of at least 1, got 0"]
    with pytest.raises(UsageError, match="training texts, and they hold no word"):
        Words(length=16).load(["", "…"])
    with pytest.raises(TypeError, match="put it in a list"):
        Bytes(length=16).load()("a text")


def long_texts(size):
    """Yield texts of ``size`` characters: words, one word, few words among much white space, and marks."""
    rng = random.Random(0)
    words = ["a", "cat", "café", "don't", "woman:", "—", "10", "猫", "👩🏽‍🚀", "\n", "e\N{COMBINING ACUTE ACCENT}te"]
    spaces = [" ", "  ", "\n", "\t", "\N{NO-BREAK SPACE}"]
    yield "".join(f"{rng.choice(words)}{rng.choice(spaces)}" for _ in range(size))[:size]
    yield "".join(rng.choice("abcdefg") for _ in range(size))
    yield f"cat{' ' * 200}" * (size // 200)
    yield ("ab" * size)[:size]
    yield ("-" * size)[:size]
    yield "cat " + "\N{COMBINING DOT BELOW}\N{COMBINING GRAVE ACCENT}" * 200 + " dog" * (size // 4)


def assert_start_has_the_ids_of_the_whole_text(tokenizer, size=40_000):
    texts = list(long_texts(size))
    found = tokenizer(texts)
    assert max(len(text_start(text, tokenizer.length)) for text in texts) < size // 2, "the texts are cut"
    for text, ids, valid in zip(texts, found.ids, found.valid, strict=True):
        whole = tokenizer.pieces.encode([text])[0]
        start = 0 if tokenizer.bos is None else 1
        room = tokenizer.length - start - (tokenizer.eos is not None)
        assert ids[start : valid.sum() - (tokenizer.eos is not None)].tolist() == whole[:room], text[:60]


@pytest.mark.parametrize("tokenizer", [Bytes(length=16), Words(length=16, max_words=50)], ids=repr)
def test_long_texts_are_cut_without_another_id(tokenizer):
    assert_start_has_the_ids_of_the_whole_text(tokenizer.load(["a cat don't", "woman 10 été 猫"]))


def test_work_per_text_is_bounded():
    """A megabyte of combining marks, which Unicode's normal form takes the square of their number for."""
    hostile = "a" + "\N{COMBINING DOT BELOW}\N{COMBINING GRAVE ACCENT}" * 2**19
    tokenizer = Words(length=8, max_words=50).load([hostile, "a cat"])
    seen = []
    counting = dataclasses.replace(tokenizer, pieces=CountedPieces(tokenizer.pieces, seen))
    assert counting([hostile, "a cat"]).valid.sum() > 4
    assert max(seen) <= 8 * CHARACTERS_PER_TOKEN


class CountedPieces:
    """Pieces that note the characters that they are given."""

    def __init__(self, pieces, seen):
        self._pieces, self._seen = pieces, seen

    def encode(self, texts):
        self._seen += map(len, texts)
        return self._pieces.encode(texts)


@pytest.mark.parametrize("tokenizer", [Bytes(length=16), Words(length=16, max_words=50)], ids=repr)
def test_half_of_a_surrogate_pair_is_replaced(tokenizer):
    tokenizer = tokenizer.load(["a cat"])
    np.testing.assert_array_equal(tokenizer(["a \ud800 cat \udce9"]).ids, tokenizer(["a ? cat ?"]).ids)


@given(st.text(st.sampled_from("a\u0928é\u0301\u0323\u0302\u0344\u05bc\u05b0\u093c"), max_size=200))
def test_order_of_long_runs_of_marks_changes_no_text(text):
    """Python's normalization sorts by insertion: what is ordered before costs it one step a mark."""
    ordered = order_marks(text)
    assert unicodedata.normalize("NFC", ordered) == unicodedata.normalize("NFC", text)
    classes = [unicodedata.combining(character) for character in ordered]
    for marked, run in itertools.groupby(classes, bool):
        run = [*run]
        assert not marked or len(run) <= SHORT_RUN or run == sorted(run)


@pytest.mark.parametrize("clean", [normalize_lower, fix])
def test_normalization_of_marks_alone_is_given_them_in_order(clean, monkeypatch):
    seen, normalize = [], unicodedata.normalize
    monkeypatch.setattr(unicodedata, "normalize", lambda form, text: seen.append(text) or normalize(form, text))
    clean("\u0301\u0323" * 100)
    assert seen[-1] == "\u0323" * 100 + "\u0301" * 100
