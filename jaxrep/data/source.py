"""Declare sources of examples. A source opens into examples with random access.

Importing or hashing a source reads nothing. ``open()`` returns ``Examples``: a length, raw examples by index (a
dictionary of ``image`` uint8 [H,W,C], ``text`` str, ids and labels int32), batches, and whole columns for evaluations.
"""

import abc
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from jaxrep.batch import Field
from jaxrep.errors import BadSample, BadShard, UsageError, as_bad_sample, hint
from jaxrep.spec import problems, spec

if TYPE_CHECKING:
    from jaxrep.data.orders.base import Indices, Order

T = TypeVar("T")

Keys = np.ndarray | None
"""uint64 [B], the source of randomness per example (a crop, a caption); None: nothing is random."""
Substitute = Callable[[int, BadSample | BadShard], int]
"""(row, why its example cannot be read) -> the index of the example to try in its place; or it raises."""


class Examples(abc.ABC):
    """Give random access to raw examples. A subclass defines ``__len__`` and ``__getitem__``; the rest follows."""

    classes: Mapping[str, Sequence[str]] = {}
    """Name of an integer column -> the names of its classes by number."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abc.abstractmethod
    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an example. Raises BadSample, BadShard."""

    def gather(self, indices: np.ndarray, keys: Keys = None, substitute: Substitute | None = None) -> dict[str, Any]:
        """Return the examples at ``indices`` [B] as columns: arrays [B,...], and lists of B strings.

        Args:
            indices: indices of examples [B].
            keys: the source of randomness per example.
            substitute: returns another index if an example cannot be read; None: BadSample or BadShard is raised.
        """
        rows = read_or_substitute(lambda row, index: self[index], indices, substitute)
        return {name: stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}

    def column(self, name: str) -> Any:
        """Return one value of every example, in order: an array, or a list of strings."""
        return stack([self[index][name] for index in range(len(self))])

    def column_parts(self, name: str) -> Iterator[Any]:
        """Yield a column in consecutive parts, of one shard each where the format allows it: a pass holds one of them.

        A part without any known value is an array of NaN, also where the others are strings.
        """
        yield self.column(name)

    def column_names(self) -> Sequence[str]:
        """Return the names of the columns, also of metadata, as far as the first example tells them."""
        return ()

    def read_from(self, name: str) -> str:
        """Return of what a field is read, as ``.txt`` or ``'caption'``, the same for equal contents; empty: unknown."""
        return ""

    def sizes(self, name: str) -> np.ndarray:
        """Return the bytes of every example's text (of its longest caption) [N]; a column of numbers as it is."""
        values = self.column(name)
        if isinstance(values, np.ndarray):
            return values
        return np.array([max(len(text.encode()) for text in as_captions(value)) for value in values], np.int64)

    def origins(self, indices: np.ndarray) -> Iterator[tuple["Examples", np.ndarray]]:
        """Yield all examples of which these are made, and the indices that reading the ones at ``indices`` needs."""
        yield self, indices

    @property
    def shard_ends(self) -> np.ndarray:
        """Return the index after the last example of each shard, int64 [S]."""
        return np.array([len(self)], np.int64)

    def shard(self, index: int) -> str:
        """Return the file that holds an example, for the report of bad samples."""
        return type(self).__name__

    def ordered_indices(self, order: "Order", batch_size: int) -> "Indices":
        """Return the indices of these examples in an order. A mixture applies the order to each of its sources."""
        return order.indices(self, batch_size)

    def fingerprint(self) -> dict[str, Any]:
        """Identify the data by few JSON values that cost no second reading; a run compares them when it resumes."""
        return {"examples": len(self)}


class Columns(Examples):
    """Hold examples in memory as columns: arrays that lead with the number of examples, or lists of strings."""

    def __init__(self, columns: Mapping[str, Any], classes: Mapping[str, Sequence[str]] | None = None):
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns must exist and be of one length; got {lengths or 'none'}")
        self._columns, self._length = dict(columns), next(iter(lengths.values()))
        self.classes = dict(classes or {})

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return {name: values[index] for name, values in self._columns.items()}

    def gather(self, indices: np.ndarray, keys: Keys = None, substitute: Substitute | None = None) -> dict[str, Any]:
        return {name: take(values, indices) for name, values in self._columns.items()}

    def column(self, name: str) -> Any:
        if name not in self._columns:
            raise UsageError(f"the examples have no column '{name}'; {hint(name, self._columns)}")
        return self._columns[name]

    def fingerprint(self) -> dict[str, Any]:
        columns = (part for item in self._columns.items() for part in item)
        return super().fingerprint() | {"digest": digest(columns)}


@spec
class Source(abc.ABC):
    """Declare a data set or a part of one."""

    attribution: ClassVar[str] = ""
    """License and authors, which reports that show or evaluate the data must name."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "open" in vars(cls):
            cls.open = _checked(cls.open)

    @abc.abstractmethod
    def open(self) -> Examples:
        """Return the examples; the first call may take time (download, index, cache).

        Raises UsageError: a value does not fit, as in a recipe; it is checked before the method of a subclass runs.
        """

    @abc.abstractmethod
    def fields(self) -> dict[str, Field]:
        """Return the fields of an example, without reading a file; the type of a string is ``str``."""


def _checked(open_: Callable[..., Any]) -> Callable[..., Any]:
    """Return a source's ``open`` with a check of all its values before it."""

    @functools.wraps(open_)
    def checked_open(self: Source) -> Any:
        if wrong := problems(self):
            raise UsageError(f"{type(self).__name__} cannot be opened: {'; '.join(wrong)}")
        return open_(self)

    return checked_open


@functools.lru_cache(1000)
def tell_once(sentence: str) -> None:
    """Print what is told once in a process, however often the data are opened."""
    print(sentence, file=sys.stderr)


def read_or_substitute(read: Callable[[int, int], T], indices: np.ndarray, substitute: Substitute | None) -> list[T]:
    """Return ``read(row, index)`` per row, with another index if one cannot be read. Raises BadSample, BadShard."""
    values = []
    for row, index in enumerate(indices.tolist()):
        while len(values) == row:
            try:
                with as_bad_sample(f"example {index}"):
                    values.append(read(row, index))
            except (BadSample, BadShard) as error:
                if substitute is None:
                    raise
                index = substitute(row, error)
    return values


def digest(values: Iterable[Any]) -> str:
    """Hash arrays by their bytes, and other values by their ``repr``."""
    hashed = hashlib.blake2b(digest_size=16)
    for value in values:
        hashed.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode(errors="replace"))
    return hashed.hexdigest()


def take(values: Any, indices: np.ndarray) -> Any:
    """Return the values of one field at ``indices``."""
    return values[indices] if isinstance(values, np.ndarray) else [values[index] for index in indices]


def as_captions(value: Any) -> tuple[str, ...]:
    """Return the captions of an example, also if its field holds a single text."""
    return (value,) if isinstance(value, str) else tuple(value)


def ranked(column: Any) -> np.ndarray:
    """Return a column as an array; strings by their ranks, since all strings of an array are as wide as the longest."""
    if not len(column) or not isinstance(column[0], str):
        return np.asarray(column)
    ranks = {value: rank for rank, value in enumerate(sorted(set(column)))}
    return np.array([ranks[value] for value in column])


def is_unknown(column: Any) -> np.ndarray:
    """Return which values [N] stand for what cannot be read: "", NaN or -1, also as one of several per example."""
    if not isinstance(column, np.ndarray) or column.dtype.kind not in "biuf":
        return np.array(["" in as_captions(value) for value in column], bool)
    unknown = np.isnan(column) if column.dtype.kind == "f" else np.equal(column, -1)
    return np.any(unknown.reshape(len(column), -1), axis=1)


def stack(values: list[Any]) -> Any:
    """Return the values of one field as an array; strings, and several values per example, stay a list."""
    first = values[0] if values else None
    if isinstance(first, np.generic | str | tuple) and any(isinstance(value, tuple) for value in values):
        return [value if isinstance(value, tuple) else (value,) for value in values]
    return values if isinstance(first, str | bytes | tuple | list | None) else np.stack(values)
