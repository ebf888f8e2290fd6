"""Parts of long captions as texts of their own: the first sentence, which often sums up, or several of all."""

import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.orders.base import mix
from jaxrep.data.source import Examples
from jaxrep.data.transforms.select import WrappedExamples, WrappedSource
from jaxrep.spec import spec

SITE = zlib.crc32(b"sentences")
"""Keeps these draws apart from others of the same key."""


@spec
class FirstSentence(WrappedSource):
    """Adds the beginning of a text as a text of its own, and ``<name>_id``, which is equal for equal beginnings.

    The id is a hash of 31 bits, so that no table of all texts is needed.
    """

    of: str = "text"
    """Field of the long text."""
    name: str = "short"
    """Field of its beginning."""
    end: str = ". "
    """What the first sentence ends with, where line breaks are read as spaces (Zhang et al. 2024, Long-CLIP, released
    code)."""

    def texts(self) -> tuple[str, ...]:
        return (self.of,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.end:
            yield "end is empty: say what a sentence ends with"

    def fields(self) -> dict[str, Field]:
        return {**self.source.fields(), self.name: Field((), "str"), f"{self.name}_id": Field((), "int32")}

    def open(self) -> Examples:
        return ShortenedExamples(self, self.source.open())


class ShortenedExamples(WrappedExamples):
    """``FirstSentence`` of examples."""

    def __init__(self, source: FirstSentence, examples: Examples):
        super().__init__(examples)
        self._of, self._name, self._end = source.of, source.name, source.end

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        short = self._short(columns[self._of])
        ids = np.array([zlib.crc32(text.encode()) >> 1 for text in short], np.int32)
        return {**columns, self._name: short, f"{self._name}_id": ids}

    def column(self, name: str) -> Any:
        return self._short(self.inner.column(self._of)) if name == self._name else self.inner.column(name)

    def _short(self, texts: Any) -> list[str]:
        return [text.replace("\n", " ").partition(self._end)[0] for text in texts]


@spec
class SubCaptions(WrappedSource):
    """Makes one field of several texts: a caption as it is, then sentences of long ones, drawn anew each epoch.

    Sentences end at full stops and line breaks. None is drawn twice before all have been; an example without any has
    its caption again. Outside training they are the first ones (Zheng et al. 2024, DreamLIP, arXiv:2403.17007, and its
    released code).
    """

    of: tuple[str, ...]
    """Fields of the long captions."""
    count: int
    """Sentences that are drawn."""
    name: str = "text"
    """Field of the caption that comes first, and of all 1 + count in its place."""

    def texts(self) -> tuple[str, ...]:
        return (self.name, *self.of)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.of or self.count < 1:
            yield f"of and count say what is drawn from and how much, at least one of each, got {self.of}, {self.count}"

    def fields(self) -> dict[str, Field]:
        kept = {name: field for name, field in self.source.fields().items() if name not in self.of}
        return {**kept, self.name: Field((1 + self.count,), "str")}

    def open(self) -> Examples:
        return SentenceExamples(self, self.source.open())


class SentenceExamples(WrappedExamples):
    """``SubCaptions`` of examples."""

    def __init__(self, source: SubCaptions, examples: Examples):
        super().__init__(examples)
        self._source = source

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        kept = {name: values for name, values in columns.items() if name not in self._source.of}
        keys = None if keys is None else mix(keys + np.uint64(SITE))
        drawn = [self._drawn(columns, row, None if keys is None else keys[row]) for row in range(len(indices))]
        return {**kept, self._source.name: drawn}

    def _drawn(self, columns: Mapping[str, Any], row: int, key: Any) -> tuple[str, ...]:
        first = columns[self._source.name][row]
        found = self._sentences([columns[name][row] for name in self._source.of]) or [first]
        places = np.arange(len(found), dtype=np.uint64)
        order = places if key is None else np.argsort(mix(key + places))
        return (first, *(found[int(place)] for place in np.resize(order, self._source.count)))

    def column(self, name: str) -> Any:
        """As a column an example has its caption and all sentences."""
        if name != self._source.name:
            return self.inner.column(name)
        columns = [self.inner.column(name) for name in self._source.reads()]
        return [(first, *self._sentences(longs)) for first, *longs in zip(*columns, strict=True)]

    @staticmethod
    def _sentences(texts: Any) -> list[str]:
        return [part.strip() for text in texts for part in re.split(r"[.\n]", text) if part.strip()]
