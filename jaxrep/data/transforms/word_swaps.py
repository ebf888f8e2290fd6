"""Make wrong captions that differ from a true caption in a phrase, or in the order of its words.

They test whether a model uses words and their order (Yuksekgonul et al. 2023, arXiv:2210.01936: attribute, relation
and order), and are hard negatives to train on (NegCLIP, section 4 there; Structure-CLIP, Huang et al. 2023,
arXiv:2305.06152). There are three kinds, all functions of the caption and of spans in it:

- ``replacements`` replace a phrase by another that excludes it (red, blue);
- ``exchanges`` exchange two phrases of one kind (nouns, adjectives, noun phrases …);
- ``reorderings`` change the order of the words, as ARO does.

Spans come from a lexicon (``phrases``) or from spaCy (``spacy_spans``).
"""

import functools
import re
import zlib
from collections.abc import Callable, Sequence
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrep.data._util.hashing import splitmix64
from jaxrep.errors import UsageError

EXCLUSIVE, PARTS_OF_SPEECH = "swaps.txt", "parts_of_speech.txt"
"""Lexicons of the package: phrases that exclude one another, and words by part of speech."""
CONTENT = ("noun", "adjective")
MAX_CHARACTERS = 2_000
"""A longer caption is cut before it is made wrong: its pairs of phrases grow with the square of its length."""


class Group(NamedTuple):
    """Hold phrases of one kind that exclude one another: each is wrong where another is right."""

    kind: str
    phrases: tuple[str, ...]


class Span(NamedTuple):
    """Mark the characters ``start:end`` of a caption as a kind; ``group``: number of the group in the lexicon."""

    start: int
    end: int
    kind: str
    group: int = -1


class Negative(NamedTuple):
    """Hold a wrong caption, and the kind of phrase that was changed."""

    text: str
    kind: str


def read(path: str = "", package: str = EXCLUSIVE) -> tuple[Group, ...]:
    """Read the lexicon in a file; without a path, that of the package of this name. Raises UsageError."""
    file = Path(path) if path else resources.files("jaxrep.data.transforms").joinpath(package)
    try:
        return parse(file.read_text(encoding="utf-8"), path or package)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the lexicon {path} cannot be read: {error}") from error


def parse(text: str, name: str = "the lexicon") -> tuple[Group, ...]:
    """Parse groups from lines ``kind: phrase | phrase``; lines that start with # are comments. Raises UsageError."""
    groups = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            kind, colon, words = line.partition(":")
            phrases = tuple(word.strip() for word in words.split("|"))
            if not colon or not all(phrases):
                raise UsageError(f"{name}, line {number}: expected a kind and its phrases, as 'kind: one | other'")
            groups.append(Group(kind.strip(), phrases))
    return tuple(groups)


def phrases(caption: str, groups: tuple[Group, ...]) -> list[Span]:
    """Find the lexicon's phrases in a caption: whole words in any case, and the longest of several phrases."""
    pattern, of = _pattern(groups)
    return [Span(m.start(), m.end(), *of[m[0].lower()]) for m in pattern.finditer(caption)]


@functools.lru_cache(8)
def _pattern(groups: tuple[Group, ...]) -> tuple[re.Pattern[str], dict[str, tuple[str, int]]]:
    of = {word.lower(): (group.kind, number) for number, group in enumerate(groups) for word in group.phrases}
    longest = sorted(of, key=len, reverse=True)
    # A hyphen joins words: there is no "medium" in "medium-light".
    inside = "|".join(map(re.escape, longest))
    return re.compile(rf"(?<![\w’'-])(?:{inside})(?![\w’'-])", re.IGNORECASE), of


def replacements(caption: str, groups: tuple[Group, ...], spans: Sequence[Span] | None = None) -> list[Negative]:
    """Return the caption with one phrase replaced by another of its group; ``spans``: only these phrases."""
    negatives = []
    for span in phrases(caption, groups) if spans is None else spans:
        old = caption[span.start : span.end]
        for new in groups[span.group].phrases:
            if new.lower() != old.lower():
                negatives.append(Negative(_put(caption, [(span, _as(old, new))]), span.kind))
    return negatives


def exchanges(caption: str, spans: Sequence[Span]) -> list[Negative]:
    """Return the caption with two different phrases of one kind exchanged, for all such pairs.

    Spans may overlap, as a noun phrase and its noun do. Overlapping spans are not exchanged, and neither are two that
    "and" or "or" joins, because they mean the same in either order.
    """
    negatives = {}
    for one, other in combinations(sorted(spans), 2):
        left, right = caption[one.start : one.end], caption[other.start : other.end]
        joined = caption[one.end : other.start].strip().lower() in ("and", "or", "&")
        if one.kind == other.kind and one.end <= other.start and left.lower() != right.lower() and not joined:
            text = _put(caption, [(one, _as(left, right)), (other, _as(right, left))])
            negatives.setdefault(Negative(text, one.kind))
    return list(negatives)


def reorderings(caption: str, spans: Sequence[Span], key: int) -> list[Negative]:
    """Return the caption with its words in other orders, at most one per kind of order (ARO, appendix).

    ``nouns_and_adjectives`` moves only these, ``all_but_nouns_and_adjectives`` the other words, ``trigrams`` whole
    trigrams, ``within_trigrams`` the words within each. ``key`` and the caption determine the order.
    """
    words = [Span(m.start(), m.end(), "") for m in re.finditer(r"[\w’'-]+", caption)]
    content = [any(s.start <= w.start and w.end <= s.end and s.kind in CONTENT for s in spans) for w in words]
    places, indices = np.array(content, bool), np.arange(len(words))
    threes = [indices[i : i + 3] for i in range(0, len(words), 3)]
    orders = {
        "nouns_and_adjectives": _moved(indices, places, _key(caption, key, 0)),
        "all_but_nouns_and_adjectives": _moved(indices, ~places, _key(caption, key, 1)),
        "trigrams": np.concatenate([threes[i] for i in _shuffled(len(threes), _key(caption, key, 2))] or [indices]),
        "within_trigrams": np.concatenate(
            [three[_shuffled(len(three), _key(caption, key, 3 + i))] for i, three in enumerate(threes)] or [indices]
        ),
    }
    texts = [caption[word.start : word.end] for word in words]
    moved = {kind: zip(words, [texts[i] for i in order], strict=True) for kind, order in orders.items()}
    negatives = [Negative(_put(caption, list(changes)), kind) for kind, changes in moved.items()]
    return [negative for negative in negatives if negative.text != caption]


def draw(negatives: Sequence[Negative], key: int) -> Negative | None:
    """Draw one of the negatives by a key of 64 bits, each kind with equal probability; None if there are none."""
    kinds = list(dict.fromkeys(negative.kind for negative in negatives))
    if not kinds:
        return None
    first, second = (int(splitmix64(np.array([key], np.uint64) + np.uint64(i))[0]) for i in (0, 1))
    of_kind = [negative for negative in negatives if negative.kind == kinds[first % len(kinds)]]
    return of_kind[second % len(of_kind)]


def spacy_spans(doc: Any) -> list[Span]:
    """Find nouns, adjectives, adverbs, verbs and noun phrases in a text that spaCy parsed (extra: spacy).

    ``spacy_spans(spacy.load("en_core_web_sm")(caption))``
    """
    parts = {"NOUN": "noun", "PROPN": "noun", "ADJ": "adjective", "ADV": "adverb", "VERB": "verb"}
    words = [Span(t.idx, t.idx + len(t.text), parts[t.pos_]) for t in doc if t.pos_ in parts]
    return words + [Span(chunk.start_char, chunk.end_char, "noun_phrase") for chunk in doc.noun_chunks]


@functools.lru_cache(4)
def tagger(model: str = "") -> Callable[[str], list[Span]]:
    """Return a function from a caption to its spans by part of speech: a spaCy model, or the package's lexicon.

    A model is loaded once in each process, since it is not sent to worker processes.

    Raises UsageError: spaCy or the model is not installed.
    """
    if not model:
        return functools.partial(phrases, groups=read(package=PARTS_OF_SPEECH))
    try:
        import spacy  # pyright: ignore[reportMissingImports]

        pipeline = spacy.load(model)
    except (ImportError, OSError) as error:
        raise UsageError(
            f"spaCy's model {model!r} tags the captions, and cannot be loaded ({error}): "
            f"pip install 'jaxrep[spacy]', then python -m spacy download {model}"
        ) from error
    return lambda caption: spacy_spans(pipeline(caption))


def _put(caption: str, changes: Sequence[tuple[Span, str]]) -> str:
    """Return the caption with the texts of some spans replaced; the spans are in order and do not overlap."""
    parts, at = [], 0
    for span, text in changes:
        parts += [caption[at : span.start], text]
        at = span.end
    return "".join([*parts, caption[at:]])


def _as(old: str, new: str) -> str:
    """Return ``new`` with a capital if ``old`` has one, else as the lexicon has it."""
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def _key(caption: str, key: int, site: int) -> np.ndarray:
    return np.array([zlib.crc32(f"{key}/{site}/{caption}".encode())], np.uint64)


def _shuffled(n: int, key: np.ndarray) -> np.ndarray:
    """Return a random order of n things that differs from the present one if n > 1."""
    order = np.argsort(splitmix64(splitmix64(key) + np.arange(n, dtype=np.uint64)), kind="stable")
    return np.roll(order, 1) if (order == np.arange(n)).all() else order


def _moved(indices: np.ndarray, places: np.ndarray, key: np.ndarray) -> np.ndarray:
    order = indices.copy()
    order[places] = indices[places][_shuffled(int(places.sum()), key)]
    return order
