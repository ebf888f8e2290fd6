"""Several captions an image: one of them is read each time, with probabilities.

Long and short, original and synthetic captions help each other best when training sees them in turn (Li et al. 2024,
What If We Recaption Billions of Web Images with LLaMA-3?, arXiv:2406.08478, section 5: mixed with a probability).
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.orders.base import mix
from jaxrep.data.source import Examples
from jaxrep.data.transforms.select import WrappedExamples, WrappedSource
from jaxrep.spec import spec

SITE = zlib.crc32(b"caption")
"""Keeps these draws apart from others of the same key."""


@spec
class SampleCaption(WrappedSource):
    """One text an example, drawn anew each epoch: first which field by its probability, then which of its captions.

    The draw is keyed by the recipe's seed and the place in the order. Outside training the first caption of the first
    field is taken; as a column an example has all its captions.
    """

    probabilities: Mapping[str, float]
    """Field of the source -> how often it is taken, by their proportion."""
    name: str = "text"
    """Field of a batch. Its ids, ``<name>_id``, are those of the captions, where all fields have such."""

    def reads(self) -> tuple[str, ...]:
        return tuple(self.probabilities)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        chances = self.probabilities.values()
        if not chances or min(chances) < 0 or not 0 < sum(chances) < float("inf"):
            yield f"probabilities are numbers from 0 on, one of them above it, not {dict(self.probabilities)}"
        held = self.source.fields()
        for field in self.probabilities:
            if field in held and held[field].dtype != "str":
                yield f"the field '{field}' is no text but {held[field].dtype}"

    def ids(self) -> bool:
        """Whether the captions have ids."""
        return all(f"{field}_id" in self.source.fields() for field in self.probabilities)

    def fields(self) -> dict[str, Field]:
        drawn = {name for field in self.probabilities for name in (field, f"{field}_id")}
        kept = {name: field for name, field in self.source.fields().items() if name not in drawn}
        ids = {f"{self.name}_id": Field((), "int32")} if self.ids() else {}
        return {**kept, self.name: Field((), "str"), **ids}

    def open(self) -> Examples:
        return SampleCaptionExamples(self, self.source.open())


class SampleCaptionExamples(WrappedExamples):
    """``SampleCaption`` of examples."""

    def __init__(self, source: SampleCaption, examples: Examples):
        super().__init__(examples)
        self._source, self._kept = source, [name for name in source.fields() if name in source.source.fields()]
        chances = np.array(list(source.probabilities.values()), np.float64)
        self._names, self._steps = list(source.probabilities), np.cumsum(chances / chances.sum())

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        own = {self._source.name, f"{self._source.name}_id"}
        found = {name: columns[name] for name in self._kept if name not in own}
        names, views = self._draw(len(indices), keys)
        drawn = [_caption(columns, name, row, view) for row, (name, view) in enumerate(zip(names, views, strict=True))]
        found[self._source.name] = [text for text, _ in drawn]
        if self._source.ids():
            found[f"{self._source.name}_id"] = np.array([number for _, number in drawn], np.int32)
        return found

    def _draw(self, rows: int, keys: np.ndarray | None) -> tuple[list[str], list[int]]:
        """Which field each row takes, and a number that chooses among its captions."""
        if keys is None:
            return self._names[:1] * rows, [0] * rows
        which = mix(keys + np.uint64(SITE))
        at = np.searchsorted(self._steps[:-1], which / 2**64, side="right")
        return [self._names[i] for i in at], mix(which).tolist()

    def column(self, name: str) -> Any:
        if name != self._source.name:
            return self.inner.column(name)
        columns = [self.inner.column(field) for field in self._names]
        texts = [[(text,) if isinstance(text, str) else tuple(text) for text in column] for column in columns]
        return [sum(captions, ()) for captions in zip(*texts, strict=True)]

    def sizes(self, name: str) -> np.ndarray:
        if name != self._source.name:
            return self.inner.sizes(name)
        return np.max([self.inner.sizes(field) for field in self._names], axis=0)


def _caption(columns: Mapping[str, Any], name: str, row: int, view: int) -> tuple[str, Any]:
    """One of the captions of a row, and its id where there is one."""
    texts, ids = columns[name][row], columns[f"{name}_id"][row] if f"{name}_id" in columns else None
    if isinstance(texts, str):
        return texts, ids
    view %= len(texts)
    return texts[view], None if ids is None else ids[view]
