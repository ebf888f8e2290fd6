"""Which entries of a list of concepts the text of a pair holds: the metadata that MetaCLIP curates by.

Xu et al. 2024, Demystifying CLIP Data (arXiv:2309.16671), sections 3.1 and 3.2. An entry is found where its words
stand in a text one after the other, in the same case, between spaces. Some punctuation counts as a word of its own,
as in the authors' released code; in an entry it does not, so that an entry "St. Ives" is found in no text.
"""

import hashlib
import json
import re
import string
from collections.abc import Iterable, Sequence

from ahocorasick_rs import AhoCorasick

from jaxrep.errors import UsageError
from jaxrep.storage import read

_MARKS = re.compile(r"([,.;:?!`])")
_BREAKS = str.maketrans("\t\n\r", "   ")


def spaced(text: str) -> str:
    """A text as entries are looked for in it: with spaces around it and around each of seven punctuation marks."""
    return _MARKS.sub(r" \1 ", f" {text} ").translate(_BREAKS)


class Matcher:
    """Finds all of ``entries`` in a text in one pass over it, however many they are (Aho & Corasick 1975)."""

    def __init__(self, entries: Sequence[str]):
        self._automaton = AhoCorasick([f" {entry} " for entry in entries])

    def __call__(self, texts: str | Iterable[str]) -> list[int]:
        """The numbers of the entries that one text holds, or any of several; each once, ascending."""
        found: set[int] = set()
        for text in (texts,) if isinstance(texts, str) else texts:
            hits = self._automaton.find_matches_as_indexes(spaced(text), overlapping=True)
            found.update(entry for entry, _, _ in hits)
        return sorted(found)


def read_entries(paths: Sequence[str]) -> list[str]:
    """The entries that files hold, a line each or as a list in JSON (.json); each once, in their order.

    Raises UsageError: a file that is neither, or none that holds an entry; BadShard: one that cannot be read.
    """
    found = [entry for path in paths for entry in _entries(path)]
    entries = list(dict.fromkeys(entry for entry in found if entry.strip()))
    if not entries:
        raise UsageError(f"{', '.join(paths) or 'no file'} holds no entry: a line each, or a list of strings in JSON")
    return entries


def _entries(path: str) -> list[str]:
    try:
        content = read(path).decode()
        entries = json.loads(content) if path.endswith(".json") else content.splitlines()
    except ValueError as error:
        raise UsageError(f"{path} holds no entries that can be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"{path} is no list of strings, which the metadata are in JSON")
    return entries


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Every word of some texts as an entry, sorted: metadata for data that have none. Punctuation is none."""
    return sorted({word for text in texts for word in spaced(text).split()} - set(string.punctuation))


def digest(entries: Sequence[str]) -> str:
    """What tells one list of entries from another."""
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:32]
