"""Read examples that are records of named values: the base of ArrayRecords, ParquetTable, Tfds and Csv."""

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.sources.encoded import EncodedExamples, EncodedSource, ShardedExamples, read_beside
from jaxrep.data.sources.patterns import folder_of
from jaxrep.data.sources.values import Content, one_text, plain_value, text_content
from jaxrep.errors import BadSample, UsageError, as_bad_sample, hint
from jaxrep.spec import spec

CACHED_RECORDS = 64
"""Records that are held in memory, so that all parts of an example are read at once."""


@spec
class Records(EncodedSource):
    """Declare a source of records of named values; values that are no part of an example are metadata."""

    image: str = "image"
    """Name of the image: its bytes, or a path relative to the file's folder; empty: none."""
    text: str = "text"
    """Name of the caption, or of a list of captions; empty: none."""
    label: str = ""
    """Name of the class number; empty: none."""
    captions: tuple[str, ...] = ()
    """Names of further captions: each is a field of this name."""

    def parts(self) -> tuple[str, ...]:
        return tuple(self.values())

    def further_captions(self) -> tuple[str, ...]:
        return self.captions

    def values(self) -> dict[str, str]:
        """Return the name of each part's value."""
        named = {"image": self.image, "text": self.text, "label": self.label} | {name: name for name in self.captions}
        return {part: name for part, name in named.items() if name}

    def places(self) -> Mapping[str, str]:
        return {part: repr(name) for part, name in self.values().items()}

    def check(self, path: str, names: Collection[str]) -> None:
        """Check that a file with values of these names has all parts. Raises UsageError."""
        for name in self.values().values():
            if name not in names:
                raise UsageError(f"{path} has no column {name!r}; {hint(name, names)}")


class RecordExamples(ShardedExamples, EncodedExamples):
    """Read the records of files, one file after the other. A subclass reads one record."""

    def __init__(self, source: Records, shards: Sequence[str], counts: Sequence[int]):
        """Take the number of records of each shard. Raises UsageError: there is no record."""
        EncodedExamples.__init__(self, source)
        ShardedExamples.__init__(self, shards, counts)
        self._value_names = source.values()
        self._cached: LruCache[Mapping[str, Any]] = LruCache(CACHED_RECORDS)
        if not len(self):
            raise UsageError(f"{type(source).__name__}: {', '.join(shards) or 'no file'} has no record")

    @abc.abstractmethod
    def record(self, number: int, row: int) -> Mapping[str, Any]:
        """Read the values of record ``row`` of shard ``number``, by name. Any error but BadShard is of this record."""

    def key(self, index: int) -> str:
        """Return the name of the file and the number of the record, as ``00003.parquet/12``."""
        number, row = self.find(index)
        return f"{self._shards[number].rpartition('/')[2]}/{row}"

    def content(self, index: int, part: str) -> Content:
        name, values, place = self._value_names[part], self._read(index, self._cached_record), self.place(index, part)
        if name not in values:
            raise BadSample(place, f"it has no {name!r}; there are: {', '.join(values)}")
        value = values[name]
        if part != "image" and part != "label":
            return text_content(value)
        value = _single(value)
        if part == "image" and isinstance(value, str):
            return read_beside(folder_of(self.shard(index)), value, place)
        return one_text(value)

    def place(self, index: int, part: str) -> str:
        number, row = self.find(index)
        return f"{self._shards[number]}, record {row}, {self._value_names[part]!r}"

    def metadata(self, index: int) -> Mapping[str, Any]:
        parts, values = self._value_names.values(), self._read(index, self.others)
        plain = {name: plain_value(value) for name, value in values.items() if name not in parts}
        return {name: value for name, value in plain.items() if isinstance(value, str | int | float)}

    def _cached_record(self, number: int, row: int) -> Mapping[str, Any]:
        return self._cached.get((number, row), lambda: self.record(number, row))

    others = _cached_record
    """Read the values of a record that are no parts; more where the format gives them at once."""

    def _read(self, index: int, read: Callable[[int, int], Mapping[str, Any]]) -> Mapping[str, Any]:
        number, row = self.find(index)
        with as_bad_sample(lambda: f"{self._shards[number]}, record {row}", sentences=False):
            return read(number, row)


def _single(value: Any) -> Any:
    """Return the single value of an image or label. Raises ValueError: there are several or none."""
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
        if len(value) != 1:
            raise ValueError(f"it has {len(value)} values, and one is read")
        value = value[0]
    if isinstance(value, Mapping):  # an image of a Hugging Face data set: its bytes, or else its path
        value = value.get("bytes") or value.get("path")
    return value
