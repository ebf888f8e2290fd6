"""Where examples come from: a source is declared by a spec and opened into random access.

Importing or hashing a source reads nothing. ``open()`` gives ``Examples``: a length, raw examples by index (a
dictionary of ``image`` uint8 [H,W,C], ``text`` str, ids and labels int32), many at once, and whole columns for
evaluations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.orders.base import Indices, Order
from jaxrep.errors import BadSample, BadShard, UsageError, hint
from jaxrep.spec import spec

T = TypeVar("T")


Instead = Callable[[int, BadSample | BadShard], int]
"""(row, why its example cannot be read) -> the index of the example to try in its place; or it raises."""


class Examples:
    """Random access to raw examples. A subclass gives ``__len__`` and ``__getitem__``; the rest follows from them."""

    classes: Mapping[str, Sequence[str]] = {}
    """Name of an integer column -> what its numbers stand for."""

    def __len__(self) -> int:
        raise TypeError(f"{type(self).__name__} does not say how many examples it has")

    def __getitem__(self, index: int) -> dict[str, Any]:
        raise TypeError(f"{type(self).__name__} does not give examples by index")

    def gather(
        self, indices: np.ndarray, keys: np.ndarray | None = None, instead: Instead | None = None
    ) -> dict[str, Any]:
        """The examples at ``indices`` [B] as columns: arrays that lead with B; strings as lists of length B.

        ``keys``: uint64 [B], from which follows what is random in them (a crop, a caption), where anything is; without
        them nothing is. ``instead`` is asked for another index where an example cannot be read; without it BadSample or
        BadShard is raised.
        """
        rows = tried(lambda row, index: self[index], indices, instead)
        return {name: stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}

    def column(self, name: str) -> Any:
        """One value of every example, in order: an array, or a list of strings."""
        return stack([self[index][name] for index in range(len(self))])

    def sizes(self, name: str) -> np.ndarray:
        """Bytes of a text of every example, [N], of several captions the longest; a column of numbers as it is."""
        values = self.column(name)
        if isinstance(values, np.ndarray):
            return values
        texts = ((value,) if isinstance(value, str) else value for value in values)
        return np.array([max(len(text.encode()) for text in several) for several in texts], np.int64)

    @property
    def ends(self) -> np.ndarray:
        """The index after the last example of each shard, int64 [S]: examples of one shard are near each other."""
        return np.array([len(self)], np.int64)

    def shard(self, index: int) -> str:
        """The file that holds an example, as the ledger of bad samples names it."""
        return type(self).__name__

    def arranged(self, order: Order, batch_size: int) -> Indices:
        """The indices of these examples in an order. A mixture puts each of its sources in the order."""
        return order.over(self, batch_size)


class Columns(Examples):
    """Examples that lie in memory as columns: arrays that lead with the number of examples, or lists of strings."""

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

    def gather(
        self, indices: np.ndarray, keys: np.ndarray | None = None, instead: Instead | None = None
    ) -> dict[str, Any]:
        return {name: _take(values, indices) for name, values in self._columns.items()}

    def column(self, name: str) -> Any:
        if name not in self._columns:
            raise UsageError(f"the examples have no column '{name}'; {hint(name, self._columns)}")
        return self._columns[name]


@spec
class Source:
    """Abstract: the declaration of a data set or of a part of one."""

    attribution: ClassVar[str] = ""
    """License and authors, as reports that show or measure the data must name them."""

    def open(self) -> Examples:
        """Random access to the examples; the first call may take time (download, index, cache)."""
        raise TypeError(f"{type(self).__name__} does not open into examples")

    def fields(self) -> dict[str, Field]:
        """What an example holds, known without touching a file; the type of a string is ``str``."""
        raise TypeError(f"{type(self).__name__} does not say what an example holds")


def tried(read: Callable[[int, int], T], indices: np.ndarray, instead: Instead | None) -> list[T]:
    """``read(row, index)`` of every row, of another index where one cannot be read. Raises BadSample, BadShard."""
    found = []
    for row, index in enumerate(indices.tolist()):
        while len(found) == row:
            try:
                found.append(read(row, index))
            except (BadSample, BadShard) as error:
                if instead is None:
                    raise
                index = instead(row, error)
    return found


def _take(values: Any, indices: np.ndarray) -> Any:
    return values[indices] if isinstance(values, np.ndarray) else [values[index] for index in indices]


def stack(values: list[Any]) -> Any:
    """Values of one field as an array; strings stay a list."""
    first = values[0] if values else None
    return values if isinstance(first, str | bytes | tuple | list | None) else np.stack(values)
