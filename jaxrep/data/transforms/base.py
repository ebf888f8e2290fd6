"""Define sources made from another source: a transform states what it changes, and the rest passes through.

- ``FieldTransform`` adds, changes or removes fields. It gives ``added`` (and ``removed``) and computes the values in
  ``transform``. ``FieldSource`` is one whose examples have a state of their own, which it opens.
- ``SubsetSource`` keeps some of the examples. It gives their ``indices``.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples, Keys, Source, Substitute, digest, read_or_substitute, stack, take
from jaxrep.data.transforms.mixture import Mixture
from jaxrep.errors import BadSample, UsageError, as_bad_sample, hint
from jaxrep.spec import spec, stated


@spec
class WrappedSource(Source, abc.ABC):
    """Declare a source made from another source; its fields are those of the inner source."""

    source: Source
    """The inner source."""

    def reads(self) -> tuple[str, ...]:
        """Return the fields that the inner source must have."""
        return self.texts()

    def texts(self) -> tuple[str, ...]:
        """Return the fields among them that must hold one text per example."""
        return ()

    def problems(self) -> Iterator[str]:
        if isinstance(self.source, Mixture):
            yield f"a {type(self).__name__} goes around each source of a mixture, not around the mixture"
        fields = self.source.fields()
        for name in self.reads():
            if name not in fields:
                yield f"the source has no field '{name}'; {hint(name, fields)}"
        for name in self.texts():
            if name in fields and fields[name] != Field((), "str"):
                yield f"the field '{name}' is {fields[name]} and not one text per example"

    def fields(self) -> dict[str, Field]:
        return self.source.fields()


class WrappedExamples(Examples):
    """Delegate every read to other examples. A subclass overrides what it changes."""

    def __init__(self, inner: Examples):
        self.inner, self.classes = inner, inner.classes

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> dict[str, Any]:
        columns = self.gather(np.array([range(len(self))[index]]))
        return {name: values[0] for name, values in columns.items()}

    def gather(self, indices: np.ndarray, keys: Keys = None, substitute: Substitute | None = None) -> dict[str, Any]:
        return self.inner.gather(indices, keys, substitute)

    def column(self, name: str) -> Any:
        return self.inner.column(name)

    def column_names(self) -> Sequence[str]:
        return self.inner.column_names()

    def read_from(self, name: str) -> str:
        return self.inner.read_from(name)

    def sizes(self, name: str) -> np.ndarray:
        return self.inner.sizes(name)

    def origins(self, indices: np.ndarray) -> Iterator[tuple[Examples, np.ndarray]]:
        return self.inner.origins(indices)

    @property
    def shard_ends(self) -> np.ndarray:
        return self.inner.shard_ends

    def shard(self, index: int) -> str:
        return self.inner.shard(index)

    def fingerprint(self) -> dict[str, Any]:
        return self.inner.fingerprint()


# Fields --------------------------------------------------------------------------------------------------------------


@spec
class FieldSource(WrappedSource):
    """Declare a source whose examples have other fields than those of the inner source. ``open`` returns them."""

    @abc.abstractmethod
    def added(self) -> dict[str, Field]:
        """Return the new and the changed fields."""

    def removed(self) -> tuple[str, ...]:
        """Return the names of inner fields to leave out; names that do not exist are allowed."""
        return ()

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        replaced = {*self.reads(), *(f"{name}_id" for name in self.reads()), *self.removed()}
        for name in [name for name in self.added() if name in self.source.fields() and name not in replaced]:
            yield f"the source has a field '{name}' already, which would be lost: give the new field another name"

    def read_column(self, examples: "TransformedExamples", name: str) -> Any:
        """Read an added field of all examples; override it where it differs from ``compute`` without keys."""
        columns = {field: examples.inner.column(field) for field in self.reads()}
        return examples.compute(columns, np.arange(len(examples)), None)[name]

    def read_sizes(self, examples: "TransformedExamples", name: str) -> np.ndarray:
        """Return the sizes of an added field, as ``Examples.sizes``."""
        return Examples.sizes(examples, name)

    def read_from(self, examples: "TransformedExamples", name: str) -> str:
        """Return of what an added field is made, as ``Examples.read_from``; not which source holds it."""
        values = ", ".join(value for value in stated(self) if not value.startswith("source="))
        inner = ", ".join(filter(None, map(examples.inner.read_from, self.reads())))
        return f"{type(self).__name__}({values})" + (f" of {inner}" if inner else "")

    def fields(self) -> dict[str, Field]:
        return {**_without(self.source.fields(), self.removed()), **self.added()}


@spec
class FieldTransform(FieldSource):
    """Declare a source whose examples have other fields than those of the inner source, computed from these alone."""

    @abc.abstractmethod
    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        """Compute the added fields of the examples at ``indices`` [B] from the inner fields.

        ``keys``: uint64 [B], from which random choices follow; None outside training.
        """

    def open(self) -> Examples:
        return ComputedExamples(self, self.source.open())


class TransformedExamples(WrappedExamples, abc.ABC):
    """Give the fields of a ``FieldSource``. A subclass computes those that it adds."""

    def __init__(self, source: FieldSource, inner: Examples):
        super().__init__(inner)
        self._source, self._added, self._removed = source, frozenset(source.added()), source.removed()

    @abc.abstractmethod
    def compute(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        """Compute the added fields; the arguments are those of ``FieldTransform.transform``."""

    def gather(self, indices: np.ndarray, keys: Keys = None, substitute: Substitute | None = None) -> dict[str, Any]:
        read = indices.copy()
        columns = self.inner.gather(indices, keys, substitute and _recorded(substitute, read))
        try:
            with as_bad_sample(lambda: f"{self.shard(int(read[0]))}, example {read[0]}"):
                return {**_without(columns, self._removed), **self.compute(columns, read, keys)}
        except BadSample:
            if len(read) == 1 and substitute is None:
                raise

        def alone(row: int, index: int) -> dict[str, Any]:
            return self.gather(np.array([index]), keys if keys is None else keys[row : row + 1])

        rows = read_or_substitute(alone, read, substitute)
        return {name: stack([row[name][0] for row in rows]) for name in rows[0]}

    def column(self, name: str) -> Any:
        return self._source.read_column(self, name) if name in self._added else self.inner.column(name)

    def column_names(self) -> Sequence[str]:
        return tuple(dict.fromkeys([*self.inner.column_names(), *self._added]))

    def read_from(self, name: str) -> str:
        return self._source.read_from(self, name) if name in self._added else self.inner.read_from(name)

    def column_parts(self, name: str) -> Iterator[Any]:
        if name in self._added:
            yield self.column(name)
        else:
            yield from self.inner.column_parts(name)

    def sizes(self, name: str) -> np.ndarray:
        return self._source.read_sizes(self, name) if name in self._added else self.inner.sizes(name)


class ComputedExamples(TransformedExamples):
    """Apply a ``FieldTransform`` to examples."""

    def __init__(self, source: FieldTransform, inner: Examples):
        super().__init__(source, inner)
        self._transform = source.transform

    def compute(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        return self._transform(columns, indices, keys)


def _without(fields: dict[str, Any], removed: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in removed}


def _recorded(substitute: Substitute, read: np.ndarray) -> Substitute:
    """Return ``substitute`` with a record of its choices: it writes the index of each replaced row into ``read``."""

    def recorded(row: int, error: Any) -> int:
        read[row] = substitute(row, error)
        return int(read[row])

    return recorded


# Examples ------------------------------------------------------------------------------------------------------------


@spec
class SubsetSource(WrappedSource):
    """Declare a source of some examples of the inner source. Their indices are held in memory, 4 or 8 bytes each."""

    @abc.abstractmethod
    def indices(self, examples: Examples) -> np.ndarray:
        """Return the indices [N] of the inner examples to keep, in ascending order."""

    def open(self) -> "Subset":
        """Open the examples that are kept. Raises UsageError: there is none."""
        examples = self.source.open()
        indices = self.indices(examples)
        if not len(indices):
            raise UsageError(f"{type(self).__name__} keeps none of {len(examples)} examples, and needs at least one")
        return Subset(examples, indices)


class Subset(WrappedExamples):
    """Read the examples at ``indices`` [N], ascending and at least one."""

    def __init__(self, inner: Examples, indices: np.ndarray):
        super().__init__(inner)
        self._indices = indices.astype(np.uint32 if indices[-1] < 2**32 else np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def origin(self, index: int) -> tuple[Examples, int]:
        """Return the inner examples and the index of an example among them."""
        return self.inner, int(self._indices[index])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.inner[int(self._indices[index])]

    def gather(self, indices: np.ndarray, keys: Keys = None, substitute: Substitute | None = None) -> dict[str, Any]:
        inner = substitute and (lambda row, error: int(self._indices[substitute(row, error)]))
        return self.inner.gather(self._indices[indices].astype(np.int64), keys, inner)

    def column(self, name: str) -> Any:
        return take(self.inner.column(name), self._indices)

    def column_parts(self, name: str) -> Iterator[Any]:
        start = 0
        for part in self.inner.column_parts(name):
            first, last = np.searchsorted(self._indices, (start, start + len(part)))
            yield take(part, self._indices[first:last].astype(np.int64) - start)
            start += len(part)

    def sizes(self, name: str) -> np.ndarray:
        return self.inner.sizes(name)[self._indices]

    def origins(self, indices: np.ndarray) -> Iterator[tuple[Examples, np.ndarray]]:
        return self.inner.origins(self._indices[indices].astype(np.int64))

    @property
    def shard_ends(self) -> np.ndarray:
        return np.searchsorted(self._indices, self.inner.shard_ends).astype(np.int64)

    def shard(self, index: int) -> str:
        return self.inner.shard(int(self._indices[index]))

    def fingerprint(self) -> dict[str, Any]:
        return {"examples": len(self), "digest": digest([self._indices]), "source": self.inner.fingerprint()}
