"""Take parts of long captions as texts: the first sentence, which often summarizes, or several of all sentences."""

import re
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.transforms.base import FieldTransform, TransformedExamples
from jaxrep.spec import Count, spec

SITE = zlib.crc32(b"sentences")
"""Separates these draws from others with the same key."""


@spec
class FirstSentence(FieldTransform):
    """Add the first sentence of a text as ``<name>``, and ``<name>_id``, which is equal for equal sentences.

    The id is a hash of 31 bits, so that no table of all texts is needed.
    """

    field: str = "text"
    """Field of the long text."""
    name: str = "short"
    """Field of its first sentence."""
    end: str = ". "
    """End of the first sentence; line breaks are read as spaces (Zhang et al. 2024, Long-CLIP, released code)."""

    def texts(self) -> tuple[str, ...]:
        return (self.field,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.end:
            yield "end is empty: give the characters that end a sentence"

    def added(self) -> dict[str, Field]:
        return {self.name: Field((), "str"), f"{self.name}_id": Field((), "int32")}

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        short = [text.replace("\n", " ").partition(self.end)[0] for text in columns[self.field]]
        ids = np.array([zlib.crc32(text.encode()) >> 1 for text in short], np.int32)
        return {self.name: short, f"{self.name}_id": ids}


@spec
class SubCaptions(FieldTransform):
    """Make one field of several texts: the caption, then sentences of long captions, drawn anew each epoch.

    Sentences end at full stops and line breaks. All are drawn once before one is drawn again; an example without
    sentences repeats its caption. Outside training the first sentences are taken (Zheng et al. 2024, DreamLIP,
    arXiv:2403.17007, and its released code). As a column an example has its caption and all sentences.
    """

    long: tuple[str, ...]
    """Fields of the long captions, at least one."""
    count: Count
    """Number of sentences to draw."""
    name: str = "text"
    """Field of the caption; it is replaced by the 1 + count texts."""

    def texts(self) -> tuple[str, ...]:
        return (self.name, *self.long)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.long:
            yield "long is empty: name the fields of the long captions"

    def removed(self) -> tuple[str, ...]:
        return self.long

    def added(self) -> dict[str, Field]:
        return {self.name: Field((1 + self.count,), "str")}

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        draws = [None] * len(indices) if keys is None else splitmix64(keys + np.uint64(SITE))
        texts = [columns[name] for name in self.texts()]
        return {self.name: [self._draw(*row) for row in zip(draws, *texts, strict=True)]}

    def _draw(self, key: Any, caption: str, *longs: str) -> tuple[str, ...]:
        sentences = split_sentences(longs) or [caption]
        places = np.arange(len(sentences), dtype=np.uint64)
        order = places if key is None else np.argsort(splitmix64(key + places))
        return (caption, *(sentences[int(place)] for place in np.resize(order, self.count)))

    def read_column(self, examples: TransformedExamples, name: str) -> Any:
        columns = [examples.inner.column(field) for field in self.texts()]
        return [(caption, *split_sentences(longs)) for caption, *longs in zip(*columns, strict=True)]


def split_sentences(texts: Any) -> list[str]:
    """Split texts at full stops and line breaks."""
    return [part.strip() for text in texts for part in re.split(r"[.\n]", text) if part.strip()]
