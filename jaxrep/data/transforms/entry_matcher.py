"""Match texts with the entries of a list of concepts: the metadata of MetaCLIP's curation.

Xu et al. 2024, Demystifying CLIP Data (arXiv:2309.16671), sections 3.1 and 3.2. A text has an entry if it contains the
entry's words in sequence, in the same case, between spaces. Some punctuation marks in a text count as words, as in the
authors' released code; in an entry they do not, so that no text matches an entry "St. Ives".
"""

import hashlib
import json
import re
import string
from collections.abc import Iterable, Sequence

from ahocorasick_rs import AhoCorasick

from jaxrep.data.source import as_captions
from jaxrep.errors import UsageError
from jaxrep.storage import read_bytes

_MARKS = re.compile(r"([,.;:?!`])")
_BREAKS = str.maketrans("\t\n\r", "   ")


def spaced(text: str) -> str:
    """Return a text with spaces around it and around each of seven punctuation marks, for the search of entries."""
    return _MARKS.sub(r" \1 ", f" {text} ").translate(_BREAKS)


class Matcher:
    """Find all of ``entries`` in a text in one pass over it, whatever their number (Aho & Corasick 1975)."""

    def __init__(self, entries: Sequence[str]):
        self._automaton = AhoCorasick([f" {entry} " for entry in entries])

    def __call__(self, texts: str | Iterable[str]) -> list[int]:
        """Return the numbers of the entries in one text, or in any of several texts: each once, ascending."""
        matched: set[int] = set()
        for text in as_captions(texts):
            hits = self._automaton.find_matches_as_indexes(spaced(text), overlapping=True)
            matched.update(entry for entry, _, _ in hits)
        return sorted(matched)


def read_entries(paths: Sequence[str]) -> list[str]:
    """Read the entries in files, one per line or as a list in JSON (.json): each once, in their order.

    Raises UsageError: a file has another format, or no file has an entry; BadShard: a file cannot be read.
    """
    entries = list(dict.fromkeys(entry for path in paths for entry in _entries(path) if entry.strip()))
    if not entries:
        raise UsageError(f"{', '.join(paths) or 'no file'} has no entry: one per line, or a list of strings in JSON")
    return entries


def _entries(path: str) -> list[str]:
    try:
        content = read_bytes(path).decode()
        entries = json.loads(content) if path.endswith(".json") else content.splitlines()
    except ValueError as error:
        raise UsageError(f"the entries in {path} cannot be read: {error}") from error
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise UsageError(f"{path} is no list of strings, the format of entries in JSON")
    return entries


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Return every word of some texts as an entry, sorted: metadata for data without any. Punctuation is left out."""
    return sorted({word for text in texts for word in spaced(text).split()} - set(string.punctuation))


def digest(entries: Sequence[str]) -> str:
    """Hash a list of entries."""
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:32]
