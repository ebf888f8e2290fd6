"""Prepare examples of several modalities: split texts into fields, and drop modalities at random."""

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.transforms.base import FieldTransform, TransformedExamples
from jaxrep.spec import Natural, Share, spec

SITE = np.uint64(zlib.crc32(b"partial"))


@spec
class SplitCaptions(FieldTransform):
    """Make a field of each of the V texts of an example, such as the names of a thing in V languages."""

    names: tuple[str, ...]
    """A field per text, in order; their ids are ``<name>_id`` if the texts have ids."""
    field: str = "text"
    """The field that holds the texts."""

    def reads(self) -> tuple[str, ...]:
        return (self.field, *(name for name in self.removed()[1:] if name in self.source.fields()))

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        field = self.source.fields().get(self.field)
        if field is not None and field.shape != (len(self.names),):
            yield f"'{self.field}' has the shape {field.shape} and not {(len(self.names),)}: give one name per text"

    def removed(self) -> tuple[str, ...]:
        return (self.field, f"{self.field}_id")

    def added(self) -> dict[str, Field]:
        texts = {name: Field((), "str") for name in self.names}
        return texts | {f"{name}_id": Field((), "int32") for _ in self.reads()[1:] for name in self.names}

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        texts, ids = columns[self.field], columns.get(f"{self.field}_id")
        split = {name: [text[view] for text in texts] for view, name in enumerate(self.names)}
        return split | ({} if ids is None else {f"{name}_id": ids[:, view] for view, name in enumerate(self.names)})


@spec
class DropModalities(FieldTransform):
    """Drop one of several modalities from a share of the examples; ``<name>/present`` tells which ones remain.

    The choice of the examples and of the modalities is drawn once, by index. A dropped modality is blank: zeros, or an
    empty text.
    """

    names: tuple[str, ...]
    """The modalities."""
    share: Share
    """Share of the examples that lack one of them."""
    seed: Natural = 0
    """Seed of the draw."""

    def reads(self) -> tuple[str, ...]:
        return self.names

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(self.names) < 2:
            yield f"names has at least two modalities, so that one remains, got {self.names}"

    def added(self) -> dict[str, Field]:
        fields = self.source.fields()
        changed = {name: fields[name] for name in self.names if name in fields}
        return changed | {f"{name}/present": Field((), "bool") for name in self.names}

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        present = self.present(indices)
        blanked = {name: _blank(columns[name], present[name]) for name in self.names}
        return blanked | {f"{name}/present": rows for name, rows in present.items()}

    def present(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Draw which of the examples have each modality, bool [B]."""
        draw = splitmix64(indices.astype(np.uint64) + (SITE << np.uint64(32)) + np.uint64(self.seed))
        which = (splitmix64(draw) % np.uint64(len(self.names))).astype(np.int64)
        dropped = np.where(draw < self.share * 2.0**64, which, -1)
        return {name: dropped != i for i, name in enumerate(self.names)}

    def read_column(self, examples: TransformedExamples, name: str) -> Any:
        """Read one modality without the others."""
        modality = name.removesuffix("/present")
        present = self.present(np.arange(len(examples)))[modality]
        return _blank(examples.inner.column(name), present) if name == modality else present


def _blank(values: Any, present: np.ndarray) -> Any:
    """Return the values of the rows that are present, and zeros or empty texts in the others."""
    if isinstance(values, np.ndarray):
        return np.where(present.reshape(-1, *(1,) * (values.ndim - 1)), values, np.zeros((), values.dtype))
    return [value if kept else "" for value, kept in zip(values, present, strict=True)]
