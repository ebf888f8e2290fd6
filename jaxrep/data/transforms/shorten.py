"""Shorten texts in training to some of their words, so that text towers read fewer tokens.

Short texts and small pictures make contrastive training cheap, and larger towers lose less by them (Li et al. 2023, An
Inverse Scaling Law for CLIP Training, arXiv:2305.07017).
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.hashing import content_ids, splitmix64
from jaxrep.data.decode import text_start
from jaxrep.data.source import Examples
from jaxrep.data.tokenizers.base import CHARACTERS_PER_TOKEN
from jaxrep.data.transforms.base import FieldTransform, TransformedExamples
from jaxrep.data.transforms.word_swaps import Span, tagger
from jaxrep.spec import Count, spec

SITE = zlib.crc32(b"shorten")
"""Separates these draws from others with the same key."""

Choice = Literal["first", "random", "block", "syntax"]

ORDER = ("noun", "adjective", "verb")
"""Parts of speech that ``syntax`` keeps before all others, most wanted first (released code, ``get_order``)."""


@spec
class ShortenTexts(FieldTransform):
    """Keep some words of each text in training; texts that have no more stay as they are (Li et al. 2023, CLIPA).

    White space separates words, and those that are kept stay in their order. ``<field>_id``, if the source has it,
    becomes a hash of 31 bits, equal for texts that became equal. Outside training, and as a column, texts are whole,
    and the tokenizer cuts them.
    """

    words: Count
    """Number of words to keep. The tokenizer may cut them to fewer tokens."""
    keep: Choice = "syntax"
    """Which words: the first, random ones or a random block, drawn anew each epoch; or nouns, then adjectives, then
    verbs, then others, the earlier ones first (syntax)."""
    field: str = "text"
    """Field of the texts, one per example."""
    spacy: str = ""
    """spaCy model that tags parts of speech, such as en_core_web_sm; empty: the package's list of words."""

    def texts(self) -> tuple[str, ...]:
        return (self.field,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.spacy and self.keep != "syntax":
            yield f"spacy = {self.spacy!r} tags parts of speech, which keep = {self.keep!r} does not read: leave it out"

    def added(self) -> dict[str, Field]:
        name = f"{self.field}_id"
        return {self.field: Field((), "str")} | ({name: Field((), "int32")} if name in self.source.fields() else {})

    def open(self) -> Examples:
        """Open the source. Raises UsageError: the spaCy model is not installed."""
        self._tag()
        return super().open()

    def _tag(self) -> Callable[[str], Sequence[Span]]:
        return tagger(self.spacy) if self.keep == "syntax" else lambda text: ()

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        texts = columns[self.field]
        # Several texts of an example are told where they are tokenized.
        if keys is not None and all(isinstance(text, str) for text in texts):
            draws, tag = splitmix64(keys + np.uint64(SITE)), self._tag()
            texts = [shorten(text, self.words, self.keep, draw, tag) for text, draw in zip(texts, draws, strict=True)]
            columns = {self.field: texts, f"{self.field}_id": content_ids(texts)}
        return {name: columns[name] for name in self.added()}

    def read_column(self, examples: TransformedExamples, name: str) -> Any:
        return examples.inner.column(name)

    def read_sizes(self, examples: TransformedExamples, name: str) -> np.ndarray:
        return examples.inner.sizes(name)

    def read_from(self, examples: TransformedExamples, name: str) -> str:
        return examples.inner.read_from(name)


def shorten(text: str, count: int, keep: Choice, draw: np.uint64, tag: Callable[[str], Sequence[Span]]) -> str:
    """Return ``count`` words of a text, separated by spaces, or the text as it is if it has no more.

    Of a very long text only the start is read. ``draw``: 64 random bits. ``tag`` finds the parts of speech of a text.
    """
    start = text_start(text, CHARACTERS_PER_TOKEN * count)
    words = start.split()
    places = np.arange(len(words))
    if len(words) <= count:
        return start
    if keep == "random":
        places = np.argsort(splitmix64(draw + places.astype(np.uint64)), kind="stable")
    elif keep == "block":
        places += int(draw) % (len(words) - count + 1)
    elif keep == "syntax":
        places = np.argsort(word_ranks(start, words, tag(start)), kind="stable")
    return " ".join(words[place] for place in sorted(places[:count]))


def word_ranks(text: str, words: Sequence[str], spans: Sequence[Span]) -> np.ndarray:
    """Return the place in ``ORDER`` of each word's part of speech, int [N]: the best of the spans that overlap it."""
    ranks, end = np.full(len(words), len(ORDER)), 0
    for n, word in enumerate(words):
        begin = text.index(word, end)
        end = begin + len(word)
        parts = [ORDER.index(s.kind) for s in spans if s.kind in ORDER and s.start < end and s.end > begin]
        ranks[n] = min(parts, default=len(ORDER))
    return ranks
