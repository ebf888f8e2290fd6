"""Examples that are records of named values: ArrayRecord files of ``tf.train.Example`` messages.

ParquetTable and Tfds hold records as well, and share what is here.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.source import Examples
from jaxrep.data.sources import tf_example
from jaxrep.data.sources.encoded import EncodedExamples, EncodedSource, read_file
from jaxrep.data.sources.files import beside
from jaxrep.data.sources.patterns import files
from jaxrep.disk_cache import cached
from jaxrep.errors import BadSample, BadShard, UsageError
from jaxrep.spec import spec
from jaxrep.storage import facts, fetched

NEAR_RECORDS = 64
"""Records that are kept in memory, so that the parts of an example are read at once."""
NEAR_READERS = 64
"""Files that are held open."""


@spec
class Records(EncodedSource):
    """Abstract: examples that are records of named values; values that are no part of an example are metadata."""

    image: str = "image"
    """Name of the picture's value: its bytes, or a path relative to the file's folder; empty: none is read."""
    text: str = "text"
    """Name of the caption; empty: none is read."""
    label: str = ""
    """Name of the class number; empty: none is read."""
    captions: tuple[str, ...] = ()
    """Names of further captions: each is a field of this name."""

    def parts(self) -> tuple[str, ...]:
        return tuple(self.values())

    def values(self) -> dict[str, str]:
        """The name of the value of each part."""
        named = {"image": self.image, "text": self.text, "label": self.label} | {name: name for name in self.captions}
        return {part: name for part, name in named.items() if name}


class RecordExamples(EncodedExamples):
    """Random access to records that lie in files, one after the other. A subclass reads a record."""

    def __init__(self, source: Records, shards: Sequence[str], counts: Sequence[int]):
        """``shards``: of which each has one of ``counts``."""
        super().__init__(source)
        self._named = source.values()
        self._shards, self._ends = shards, np.cumsum(counts)
        self._near: LruCache[Mapping[str, Any]] = LruCache(NEAR_RECORDS)
        if not len(self):
            raise UsageError(f"{type(source).__name__}: {', '.join(shards) or 'no file'} holds no record")

    def record(self, number: int, row: int) -> Mapping[str, Any]:
        """The values of record ``row`` of a shard, by name. Raises BadSample, BadShard."""
        raise TypeError(f"{type(self).__name__} does not read records")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def ends(self) -> np.ndarray:
        return self._ends

    def find(self, index: int) -> tuple[int, int]:
        """Number of the shard of an example, and of its record there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, int(index - (self._ends[number - 1] if number else 0))

    def shard(self, index: int) -> str:
        return self._shards[self.find(index)[0]]

    def key(self, index: int) -> str:
        """Name of the file and number of the record, as ``00003.parquet/12``."""
        number, row = self.find(index)
        return f"{self._shards[number].rpartition('/')[2]}/{row}"

    def content(self, index: int, part: str) -> bytes:
        name, values = self._named[part], self._values(index)
        if values.get(name) is None:
            raise BadSample(self.place(index, part), f"it has no {name!r}; there are: {', '.join(values)}")
        value = _single(values[name], self.place(index, part))
        if isinstance(value, bytes):
            return value
        if part == "image" and isinstance(value, str):
            return read_file(beside(self.shard(index), value), self.place(index, part))
        return str(value).encode()

    def place(self, index: int, part: str) -> str:
        number, row = self.find(index)
        return f"{self._shards[number]}, record {row}, {self._named[part]!r}"

    def metadata(self, index: int) -> Mapping[str, Any]:
        values = {n: plain(value) for n, value in self._values(index).items() if n not in self._named.values()}
        return {name: value for name, value in values.items() if isinstance(value, str | int | float)}

    def _values(self, index: int) -> Mapping[str, Any]:
        return self._near.get(index, lambda: self.record(*self.find(index)))


def _single(value: Any, place: str) -> Any:
    """The one value that a part has. Raises BadSample where there are several or none."""
    if isinstance(value, Mapping):  # of a data set of Hugging Face: a picture's bytes, or else its path
        value = value.get("bytes") or value.get("path")
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
        if len(value) != 1:
            raise BadSample(place, f"it holds {len(value)} values, where one is read")
        value = value[0]
    return value


def plain(value: Any) -> Any:
    """A value as metadata hold it: the one of a list of one, text where bytes are text, Python's numbers."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value.item() if isinstance(value, np.generic) else value


@spec
class ArrayRecords(Records):
    """ArrayRecord files whose records are tf.train.Example messages; remote ones are fetched into the cache."""

    shards: str | tuple[str, ...]
    """Paths, URLs or patterns, with braces and globs."""

    def open(self) -> Examples:
        paths = files(self.shards)
        with ThreadPoolExecutor(8) as pool:
            return ArrayRecordExamples(self, paths, list(pool.map(count, paths)))


class ArrayRecordExamples(RecordExamples):
    """The records of ArrayRecord files."""

    def __init__(self, source: ArrayRecords, shards: Sequence[str], counts: Sequence[int]):
        super().__init__(source, shards, counts)
        self._readers: LruCache[Any] = LruCache(NEAR_READERS)

    def record(self, number: int, row: int) -> Mapping[str, Any]:
        path = self._shards[number]
        try:
            (content,) = self._readers.get(number, lambda: reader(path)).read([row])
        except (RuntimeError, IndexError, ValueError) as error:  # whatever the library found
            raise BadSample(f"{path}, record {row}", f"it cannot be read ({error})") from error
        try:
            return tf_example.decode(content)
        except ValueError as error:
            raise BadSample(f"{path}, record {row}", str(error)) from error


def count(path: str) -> int:
    """How many records a file has: from the cache, or by asking the file. Raises UsageError, BadShard."""
    digest = hashlib.sha256(json.dumps([path, *facts(path)]).encode()).hexdigest()[:32]
    return int(cached(f"arrayrecord/{digest}.npy", lambda: np.array(reader(path).num_records())))


def reader(path: str) -> Any:
    """An open ArrayRecord file. Raises BadShard: it is missing or none."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        found = ArrayRecordReader(fetched(path), options="readahead_buffer_size:0", file_reader_buffer_size=2**15)
        found.num_records()  # reads the end of the file
        if found.ok():
            return found
        why = "it has no index of records at its end, so it is another file or was cut short"
    except (RuntimeError, ValueError) as error:
        why = str(error)
    raise BadShard(f"{path} is no ArrayRecord file that can be read: {why}")
