"""Parts of long captions as texts of their own: the first sentence, which often sums up, or several of all."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.select import Wrapped, WrappedExamples
from jaxrep.data.source import Examples
from jaxrep.spec import spec


@spec
class FirstSentence(Wrapped):
    """Adds the beginning of a text as a text of its own, and ``<name>_id``, which is equal for equal beginnings.

    The id is a hash of 31 bits, so that no table of all texts is needed.
    """

    of: str = "text"
    """Field of the long text."""
    name: str = "short"
    """Field of its beginning."""
    end: str = ". "
    """What the first sentence ends with (Zhang et al. 2024, Long-CLIP, released code)."""

    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        held = self.source.fields()
        if self.of in held and held[self.of] != Field((), "str"):
            yield f"the field '{self.of}' is {held[self.of]} and not one text an example"
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
        return [text.partition(self._end)[0] for text in texts]
