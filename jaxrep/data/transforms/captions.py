"""Draw one of several captions of an image at each read, with given probabilities.

Long and short, original and synthetic captions help each other most when training sees them in turn (Li et al. 2024,
What If We Recaption Billions of Web Images with LLaMA-3?, arXiv:2406.08478, section 5: mixed with a probability).
"""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.source import as_captions
from jaxrep.data.transforms.base import FieldTransform, TransformedExamples
from jaxrep.spec import NonNegative, spec

SITE = zlib.crc32(b"caption")
"""Separates these draws from others with the same key."""


@spec
class SampleCaption(FieldTransform):
    """Draw one text per example anew each epoch: first a field by its probability, then one of its captions.

    The draw is keyed by the recipe's seed and the place in the order. Outside training the first caption of the first
    field is taken; as a column an example has all its captions.
    """

    probabilities: Mapping[str, NonNegative]
    """Field of the source -> its relative frequency; one of them is above 0."""
    name: str = "text"
    """Field of a batch. The ids of the captions are ``<name>_id``, if all fields have ids."""

    def reads(self) -> tuple[str, ...]:
        fields = tuple(self.probabilities)
        return (*fields, *self._ids()) if self._has_ids() else fields

    def _ids(self) -> tuple[str, ...]:
        return tuple(f"{field}_id" for field in self.probabilities)

    def _has_ids(self) -> bool:
        return set(self._ids()) <= self.source.fields().keys()

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 < sum(self.probabilities.values()) < float("inf"):
            yield f"probabilities are finite numbers, one of them above 0, got {dict(self.probabilities)}"
        fields = self.source.fields()
        for name in self.probabilities:
            if name in fields and fields[name].dtype != "str":
                yield f"the field '{name}' is no text but {fields[name].dtype}"

    def removed(self) -> tuple[str, ...]:
        # A text of the source that has this name is replaced.
        return (*self.probabilities, *self._ids(), self.name, f"{self.name}_id")

    def added(self) -> dict[str, Field]:
        return {self.name: Field((), "str")} | ({f"{self.name}_id": Field((), "int32")} if self._has_ids() else {})

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        draws = self._draw(len(indices), keys)
        drawn = [_caption(columns, field, row, view) for row, (field, view) in enumerate(draws)]
        texts = {self.name: [text for text, _ in drawn]}
        return texts | ({f"{self.name}_id": np.array([n for _, n in drawn], np.int32)} if self._has_ids() else {})

    def _draw(self, rows: int, keys: np.ndarray | None) -> Iterable[tuple[str, int]]:
        """Draw a field per row, and a number that chooses one of its captions."""
        fields = list(self.probabilities)
        if keys is None:
            return [(fields[0], 0)] * rows
        weights = np.array(list(self.probabilities.values()), np.float64)
        draws = splitmix64(keys + np.uint64(SITE))
        chosen = np.searchsorted(np.cumsum(weights / weights.sum())[:-1], draws / 2**64, side="right")
        return zip([fields[i] for i in chosen], splitmix64(draws).tolist(), strict=True)

    def read_column(self, examples: TransformedExamples, name: str) -> Any:
        if name != self.name:
            return super().read_column(examples, name)
        columns = [map(as_captions, examples.inner.column(field)) for field in self.probabilities]
        return [sum(captions, ()) for captions in zip(*columns, strict=True)]

    def read_sizes(self, examples: TransformedExamples, name: str) -> np.ndarray:
        if name != self.name:
            return super().read_sizes(examples, name)
        return np.max([examples.inner.sizes(field) for field in self.probabilities], axis=0)


def _caption(columns: Mapping[str, Any], name: str, row: int, view: int) -> tuple[str, int]:
    """Return one of the captions of a row, and its id if it has one."""
    texts, ids = as_captions(columns[name][row]), columns.get(f"{name}_id")
    view %= len(texts)
    return texts[view], 0 if ids is None else np.atleast_1d(ids[row])[view]
