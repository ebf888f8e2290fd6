"""Examples of several modalities: texts as fields of their own, and rows that lack a modality."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.orders.base import mix
from jaxrep.data.source import Examples
from jaxrep.data.transforms.select import WrappedExamples, WrappedSource
from jaxrep.spec import spec

SITE = np.uint64(zlib.crc32(b"partial"))


@spec
class SplitCaptions(WrappedSource):
    """Each of the V texts of an example as a field of its own, as the names of a thing in V languages."""

    names: tuple[str, ...]
    """A field for each text, in their order; ``<name>_id`` are their ids where there are such."""
    field: str = "text"
    """The field that holds them."""

    def reads(self) -> tuple[str, ...]:
        return (self.field,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        held = self.source.fields().get(self.field)
        if held is not None and held.shape != (len(self.names),):
            yield f"'{self.field}' has the shape {held.shape} and not {(len(self.names),)}: a name a text"

    def fields(self) -> dict[str, Field]:
        held = self.source.fields()
        split = {name: held.pop(name) for name in (self.field, f"{self.field}_id") if name in held}
        texts = {name: Field((), "str") for name in self.names}
        ids = {f"{name}_id": Field((), "int32") for name in self.names} if len(split) == 2 else {}
        return {**held, **texts, **ids}

    def open(self) -> Examples:
        return SplitCaptionsExamples(self.source.open(), self)


class SplitCaptionsExamples(WrappedExamples):
    """``SplitCaptions`` of examples."""

    def __init__(self, examples: Examples, source: SplitCaptions):
        super().__init__(examples)
        self._field, self._names = source.field, source.names

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        texts, ids = columns.pop(self._field), columns.pop(f"{self._field}_id", None)
        for view, name in enumerate(self._names):
            columns[name] = [text[view] for text in texts]
            if ids is not None:
                columns[f"{name}_id"] = ids[:, view]
        return columns

    def column(self, name: str) -> Any:
        for view, own in enumerate(self._names):
            if name == own:
                return [text[view] for text in self.inner.column(self._field)]
            if name == f"{own}_id":
                return self.inner.column(f"{self._field}_id")[:, view]
        return self.inner.column(name)


@spec
class DropModalities(WrappedSource):
    """Rows of which some lack one of several modalities: ``<name>/present`` says which there are.

    Which rows, and what they lack, is drawn once by their index. What is absent is blank: zeros, or an empty text.
    """

    names: tuple[str, ...]
    """The modalities."""
    share: float
    """Share of the rows that lack one of them."""
    seed: int = 0
    """Seed of the draw."""

    def reads(self) -> tuple[str, ...]:
        return self.names

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(self.names) < 2:
            yield f"names are two modalities at least, so that one is left, got {self.names}"
        if not 0 <= self.share <= 1:
            yield f"share is from 0 to 1, got {self.share}"

    def fields(self) -> dict[str, Field]:
        return {**self.source.fields(), **{f"{name}/present": Field((), "bool") for name in self.names}}

    def open(self) -> Examples:
        return DropModalitiesExamples(self.source.open(), self)

    def lacks(self, indices: np.ndarray) -> np.ndarray:
        """int [B]: which of the names each row lacks; -1: none."""
        draw = mix(indices.astype(np.uint64) + (SITE << np.uint64(32)) + np.uint64(self.seed))
        which = mix(draw) % np.uint64(len(self.names))
        return np.where(draw < self.share * 2.0**64, which.astype(np.int64), -1)


class DropModalitiesExamples(WrappedExamples):
    """``DropModalities`` of examples."""

    def __init__(self, examples: Examples, source: DropModalities):
        super().__init__(examples)
        self._source = source

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        lacks = self._source.lacks(indices)
        for i, name in enumerate(self._source.names):
            present = lacks != i
            columns[name] = _blank(columns[name], present)
            columns[f"{name}/present"] = present
        return columns

    def column(self, name: str) -> Any:
        modality, _, present = name.rpartition("/")
        here = self._source.lacks(np.arange(len(self)))
        if present == "present" and modality in self._source.names:
            return here != self._source.names.index(modality)
        values = self.inner.column(name)
        return _blank(values, here != self._source.names.index(name)) if name in self._source.names else values


def _blank(values: Any, present: np.ndarray) -> Any:
    """The values of the rows that are present, and nothing in the others."""
    if isinstance(values, np.ndarray):
        return np.where(present.reshape(-1, *(1,) * (values.ndim - 1)), values, np.zeros((), values.dtype))
    return [value if here else "" for value, here in zip(values, present, strict=True)]
