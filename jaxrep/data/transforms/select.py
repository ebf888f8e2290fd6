"""What is taken of a source: some rows, some fields under other names, a number a sample.

Each is a source around another one, so that they combine, and a mixture takes them as they are.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples, Instead, Source
from jaxrep.data.transforms.mixture import Mixture
from jaxrep.errors import UsageError, hint
from jaxrep.spec import spec


@spec
class WrappedSource(Source):
    """Abstract: a source made of another one."""

    source: Source
    """What is taken from."""

    def problems(self) -> Iterator[str]:
        if isinstance(self.source, Mixture):
            yield f"a {type(self).__name__} goes around each source of a mixture, not around the mixture"
        fields = self.source.fields()
        for name in self.reads():
            if name not in fields:
                yield f"the source has no field '{name}'; {hint(name, fields)}"
        for name in self.texts():
            if name in fields and fields[name] != Field((), "str"):
                yield f"the field '{name}' is {fields[name]} and not one text an example"

    def reads(self) -> tuple[str, ...]:
        """Fields that the source must have."""
        return self.texts()

    def texts(self) -> tuple[str, ...]:
        """Those of them that must hold one text an example."""
        return ()

    def fields(self) -> dict[str, Field]:
        return self.source.fields()


class WrappedExamples(Examples):
    """Examples whose columns are changed by ``changed``; the rest is as it was."""

    def __init__(self, examples: Examples):
        self.inner, self.classes = examples, examples.classes

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        """The columns of the examples at ``indices`` [B] as they are to be."""
        raise TypeError(f"{type(self).__name__} does not say what it changes")

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> dict[str, Any]:
        columns = self.gather(np.array([index]))
        return {name: values[0] for name, values in columns.items()}

    def gather(
        self, indices: np.ndarray, keys: np.ndarray | None = None, instead: Instead | None = None
    ) -> dict[str, Any]:
        taken = indices.copy()
        columns = self.inner.gather(indices, keys, instead and _noted(instead, taken))
        return self.changed(columns, taken, keys)

    def column(self, name: str) -> Any:
        return self.inner.column(name)

    @property
    def ends(self) -> np.ndarray:
        return self.inner.ends

    def shard(self, index: int) -> str:
        return self.inner.shard(index)


def _noted(instead: Instead, taken: np.ndarray) -> Instead:
    """``instead``, which writes down what stands in each row."""

    def noted(row: int, error: Any) -> int:
        taken[row] = instead(row, error)
        return int(taken[row])

    return noted


# Fields --------------------------------------------------------------------------------------------------------------


@spec
class SelectFields(WrappedSource):
    """Some fields of a source, under other names; the rest is left away."""

    names: Mapping[str, str]
    """Field of a batch -> field of the source: {"image": "image", "text": "caption"}."""

    def reads(self) -> tuple[str, ...]:
        return tuple(self.names.values())

    def fields(self) -> dict[str, Field]:
        held = self.source.fields()
        return {name: held[old] for name, old in self.names.items() if old in held}

    def open(self) -> Examples:
        return NamedExamples(self.source.open(), self.names)


class NamedExamples(WrappedExamples):
    """``SelectFields`` of examples."""

    def __init__(self, examples: Examples, names: Mapping[str, str]):
        super().__init__(examples)
        self._names = dict(names)
        self.classes = {name: examples.classes[old] for name, old in names.items() if old in examples.classes}

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        return {name: columns[old] for name, old in self._names.items()}

    def column(self, name: str) -> Any:
        """A field by its name here, or a column that is no field here by its name there."""
        return self.inner.column(self._names.get(name, name))

    def sizes(self, name: str) -> np.ndarray:
        return self.inner.sizes(self._names.get(name, name))


# A weight a sample ---------------------------------------------------------------------------------------------------


@spec
class Weighted(WrappedSource):
    """Adds a number to each example from a column of the metadata, which is held in memory: four bytes an example."""

    column: str
    """The column."""
    name: str = "weight"
    """Field of a batch, float32 [B], which a term names as its weights."""
    default: float = 1.0
    """The number of an example that has none."""

    def fields(self) -> dict[str, Field]:
        return {**self.source.fields(), self.name: Field((), "float32")}

    def open(self) -> Examples:
        examples = self.source.open()
        values = np.asarray(examples.column(self.column), np.float32)
        return WeightedExamples(examples, self.name, np.where(np.isnan(values), np.float32(self.default), values))


class WeightedExamples(WrappedExamples):
    """Examples with ``values`` [N] as a field."""

    def __init__(self, examples: Examples, name: str, values: np.ndarray):
        super().__init__(examples)
        self._name, self._values = name, values

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        return {**columns, self._name: self._values[indices]}

    def column(self, name: str) -> Any:
        return self._values if name == self._name else self.inner.column(name)

    def sizes(self, name: str) -> np.ndarray:
        return self._values if name == self._name else self.inner.sizes(name)


# Rows ----------------------------------------------------------------------------------------------------------------


@spec
class Where:
    """A condition on one column of the metadata; what is not known of an example fulfils none."""

    column: str
    """The column: a score, a width, a license."""
    at_least: float = float("-inf")
    """Smallest number that is taken."""
    at_most: float = float("inf")
    """Largest number that is taken."""
    among: tuple[str, ...] = ()
    """Words that are taken; empty: the column holds numbers."""

    def problems(self) -> Iterator[str]:
        if self.among and (self.at_least > float("-inf") or self.at_most < float("inf")):
            yield "a column holds numbers or words: give at_least and at_most, or among"
        if self.at_least > self.at_most:
            yield f"no number is at least {self.at_least} and at most {self.at_most}"

    def __call__(self, values: Any) -> np.ndarray:
        """bool [N]: which values are taken."""
        if self.among:
            return np.isin(np.asarray(values).astype(str), self.among)
        numbers = np.asarray(values, np.float64)
        return (numbers >= self.at_least) & (numbers <= self.at_most)


@spec
class Take(WrappedSource):
    """The first examples of a source, for a quick look or an ablation; all where there are fewer."""

    count: int
    """Number of examples."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.count < 1:
            yield f"count is a number of examples: at least 1, got {self.count}"

    def open(self) -> Examples:
        examples = self.source.open()
        return Subset(examples, np.arange(min(self.count, len(examples))))


@spec
class FewShot(WrappedSource):
    """As many examples of each class, drawn once: a few-shot training set. A class with fewer gives all that it has."""

    count: int
    """Examples of a class."""
    label: str = "label"
    """Field of the classes; an example of a class below 0 is left out."""
    seed: int = 0
    """Seed of the draw; a larger count holds the examples of a smaller one."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.count < 1:
            yield f"count is a number of examples: at least 1, got {self.count}"

    def reads(self) -> tuple[str, ...]:
        return (self.label,)

    def open(self) -> Examples:
        examples = self.source.open()
        labels = np.asarray(examples.column(self.label))
        drawn = few_of_each(labels, self.count, np.random.default_rng(self.seed))
        return Subset(examples, np.sort(drawn[labels[drawn] >= 0]))


def few_of_each(labels: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Indices of up to ``count`` examples of each label; a larger count adds to those of a smaller one."""
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    grouped = labels[order]
    place = np.arange(len(labels)) - np.searchsorted(grouped, grouped)
    return order[place < count]


@spec
class Filter(WrappedSource):
    """The examples that fulfill all conditions; their indices are held in memory, at most eight bytes an example."""

    where: tuple[Where, ...]
    """The conditions."""

    def open(self) -> Examples:
        examples = self.source.open()
        taken = np.ones(len(examples), bool)
        for condition in self.where:
            taken &= condition(examples.column(condition.column))
        if not taken.any():
            raise UsageError(f"none of {len(examples)} examples fulfils the conditions {self.where}")
        return Subset(examples, np.flatnonzero(taken))


class Subset(Examples):
    """The examples at ``indices`` [N], which ascend. Raises UsageError: there are none."""

    def __init__(self, examples: Examples, indices: np.ndarray):
        if not len(indices):
            raise UsageError(f"none of {len(examples)} examples is left: a selection needs at least one")
        self._inner, self.classes = examples, examples.classes
        self._indices = indices.astype(np.uint32 if indices[-1] < 2**32 else np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def origin(self, index: int) -> tuple[Examples, int]:
        """Of what an example is taken, and its index there."""
        return self._inner, int(self._indices[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._inner[int(self._indices[index])]

    def gather(
        self, indices: np.ndarray, keys: np.ndarray | None = None, instead: Instead | None = None
    ) -> dict[str, Any]:
        inner = instead and (lambda row, error: int(self._indices[instead(row, error)]))
        return self._inner.gather(self._indices[indices].astype(np.int64), keys, inner)

    def column(self, name: str) -> Any:
        values = self._inner.column(name)
        return values[self._indices] if isinstance(values, np.ndarray) else [values[index] for index in self._indices]

    def sizes(self, name: str) -> np.ndarray:
        return self._inner.sizes(name)[self._indices]

    @property
    def ends(self) -> np.ndarray:
        return np.searchsorted(self._indices, self._inner.ends).astype(np.int64)

    def shard(self, index: int) -> str:
        return self._inner.shard(int(self._indices[index]))
