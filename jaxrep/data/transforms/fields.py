"""Choose and rename fields of a source, and add a weight per example."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples, digest
from jaxrep.data.sources.values import as_numbers
from jaxrep.data.transforms.base import FieldSource, FieldTransform, TransformedExamples
from jaxrep.errors import UsageError
from jaxrep.spec import NonNegative, spec


@spec
class SelectFields(FieldTransform):
    """Keep some fields of a source, under other names."""

    names: Mapping[str, str]
    """Field of a batch -> field of the source: {"image": "image", "text": "caption"}."""

    def reads(self) -> tuple[str, ...]:
        return tuple(self.names.values())

    def removed(self) -> tuple[str, ...]:
        return tuple(self.source.fields())

    def added(self) -> dict[str, Field]:
        fields = self.source.fields()
        return {name: fields[old] for name, old in self.names.items() if old in fields}

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        return {name: columns[old] for name, old in self.names.items()}

    def read_column(self, examples: TransformedExamples, name: str) -> Any:
        return examples.inner.column(self.names[name])

    def read_sizes(self, examples: TransformedExamples, name: str) -> np.ndarray:
        return examples.inner.sizes(self.names[name])

    def read_from(self, examples: TransformedExamples, name: str) -> str:
        return examples.inner.read_from(self.names[name])

    def open(self) -> Examples:
        examples = super().open()
        classes = examples.classes
        examples.classes = {name: classes[old] for name, old in self.names.items() if old in classes}
        return examples


@spec
class AddWeights(FieldSource):
    """Add a weight per example from a column of the metadata; it is held in memory, four bytes per example."""

    column: str
    """The column."""
    name: str = "weight"
    """Field of a batch, float32 [B], which a term names as its weights."""
    default: NonNegative = 1.0
    """Weight of an example that has no value in the column."""

    def added(self) -> dict[str, Field]:
        return {self.name: Field((), "float32")}

    def open(self) -> Examples:
        return WeightedExamples(self, self.source.open())


class WeightedExamples(TransformedExamples):
    """Hold the weights of ``AddWeights``."""

    def __init__(self, source: AddWeights, inner: Examples):
        super().__init__(source, inner)
        column = as_numbers(inner.column(source.column), source.column, "weights are numbers")
        if len(wrong := column[np.abs(column) > np.finfo(np.float32).max]):
            what = f"holds {wrong[0]:g}, and a weight is a finite number in float32"
            raise UsageError(f"the column '{source.column}' {what}")
        values = column.astype(np.float32)
        self._name, self._weights = source.name, np.where(np.isnan(values), np.float32(source.default), values)

    def compute(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        return {self._name: self._weights[indices]}

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"weights": digest([self._weights])}
