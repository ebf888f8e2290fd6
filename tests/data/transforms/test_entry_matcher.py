"""Matching equals a naive search; files of entries are read, and faulty ones are reported."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.data.transforms.entry_matcher import Matcher, digest, read_entries, spaced, vocabulary
from jaxrep.errors import UsageError


def _naive(entries, text):
    """The rule as a plain search: an entry with spaces around it is part of the text with spaces around marks."""
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for white in "\t\n\r":
        text = text.replace(white, " ")
    return [number for number, entry in enumerate(entries) if f" {entry} " in f" {text} "]


words = st.lists(st.sampled_from(["a", "b", "ab", "A", "é", "b,", "a.b", "a\nb", "c:", ""]), max_size=8).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(words.filter(str.strip), min_size=1, max_size=8, unique=True), words)
def test_matcher_equals_naive_search(entries, text):
    assert Matcher(entries)(text) == _naive(entries, text)


def test_overlapping_and_nested_entries_match_once():
    entries = ["hot", "hot dog", "dog", "dog house", "Dog", "ho"]
    assert Matcher(entries)("hot dog house, hot dog!") == [0, 1, 2, 3]
    assert Matcher(entries)(["a Dog", "hot"]) == [0, 4]  # an example of two captions has the entries of both
    assert Matcher(entries)("") == Matcher(entries)([]) == []


def test_matcher_is_exact_for_many_entries():
    rng = np.random.default_rng(0)
    entries = [" ".join(str(n) for n in rng.integers(0, 60, rng.integers(1, 4))) for _ in range(400)]
    entries = list(dict.fromkeys(entries))
    matcher = Matcher(entries)
    for _ in range(50):
        text = " ".join(str(n) for n in rng.integers(0, 60, 40))
        assert matcher(text) == _naive(entries, text)


def test_punctuation_marks_are_spaced():
    assert spaced("a,b\tc") == " a , b c "


def test_read_entries(tmp_path):
    (tmp_path / "a.txt").write_text("red fox\n\nfox\n  \né\n")
    (tmp_path / "b.json").write_text(json.dumps(["fox", "owl"]))
    entries = read_entries([f"{tmp_path}/a.txt", f"{tmp_path}/b.json"])
    assert entries == ["red fox", "fox", "é", "owl"]
    assert digest(entries) != digest(entries[::-1])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"\n \n", r"a\.txt has no entry: one per line, or a list of strings in JSON"),
        ("a.txt", b"\xff", r"the entries in .*a\.txt cannot be read: 'utf-8' codec"),
        ("a.json", b"[1", r"the entries in .*a\.json cannot be read: Expecting"),
        ("a.json", b'["a", 1]', r"a\.json is no list of strings"),
    ],
)
def test_faulty_entry_file_is_reported(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_entries([f"{tmp_path}/{name}"])


def test_vocabulary():
    assert vocabulary(["flag: Chad", "red flag!"]) == ["Chad", "flag", "red"]
