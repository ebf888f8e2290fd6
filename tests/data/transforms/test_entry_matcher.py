"""Entries are found as a naive search finds them; lists of entries are read, and what is none is said."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.data.transforms.entry_matcher import Matcher, digest, read_entries, spaced, vocabulary
from jaxrep.errors import UsageError


def _naive(entries, text):
    """The rule in the plainest words: an entry with spaces around it is part of the text with spaces around marks."""
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for white in "\t\n\r":
        text = text.replace(white, " ")
    return [number for number, entry in enumerate(entries) if f" {entry} " in f" {text} "]


words = st.lists(st.sampled_from(["a", "b", "ab", "A", "é", "b,", "a.b", "a\nb", "c:", ""]), max_size=8).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(words.filter(str.strip), min_size=1, max_size=8, unique=True), words)
def test_entries_are_those_of_a_naive_search(entries, text):
    assert Matcher(entries)(text) == _naive(entries, text)


def test_entries_that_overlap_and_nest_are_all_found_once():
    entries = ["hot", "hot dog", "dog", "dog house", "Dog", "ho"]
    assert Matcher(entries)("hot dog house, hot dog!") == [0, 1, 2, 3]
    assert Matcher(entries)(["a Dog", "hot"]) == [0, 4]  # an example of two captions has the entries of both
    assert Matcher(entries)("") == Matcher(entries)([]) == []


def test_a_long_list_in_long_texts_is_as_exact():
    rng = np.random.default_rng(0)
    entries = [" ".join(str(n) for n in rng.integers(0, 60, rng.integers(1, 4))) for _ in range(400)]
    entries = list(dict.fromkeys(entries))
    matcher = Matcher(entries)
    for _ in range(50):
        text = " ".join(str(n) for n in rng.integers(0, 60, 40))
        assert matcher(text) == _naive(entries, text)


def test_marks_stand_alone():
    assert spaced("a,b\tc") == " a , b c "


def test_files_of_entries(tmp_path):
    (tmp_path / "a.txt").write_text("red fox\n\nfox\n  \né\n")
    (tmp_path / "b.json").write_text(json.dumps(["fox", "owl"]))
    entries = read_entries([f"{tmp_path}/a.txt", f"{tmp_path}/b.json"])
    assert entries == ["red fox", "fox", "é", "owl"]
    assert digest(entries) != digest(entries[::-1])


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.txt", b"\n \n", r"a\.txt holds no entry: a line each, or a list of strings in JSON"),
        ("a.txt", b"\xff", r"a\.txt holds no entries that can be read: 'utf-8' codec"),
        ("a.json", b"[1", r"a\.json holds no entries that can be read: Expecting"),
        ("a.json", b'["a", 1]', r"a\.json is no list of strings"),
    ],
)
def test_what_is_no_list_of_entries_is_said(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_entries([f"{tmp_path}/{name}"])


def test_the_vocabulary_of_texts():
    assert vocabulary(["flag: Chad", "red flag!"]) == ["Chad", "flag", "red"]
