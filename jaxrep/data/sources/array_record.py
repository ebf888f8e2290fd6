"""Read ArrayRecord files of ``tf.train.Example`` messages."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.local_copy import local_copy
from jaxrep.data.source import Examples
from jaxrep.data.sources import tf_example
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.records import RecordExamples, Records
from jaxrep.disk_cache import cached
from jaxrep.errors import BadShard
from jaxrep.spec import spec
from jaxrep.storage import file_version

CACHED_READERS = 64
"""Files that stay open."""


@spec
class ArrayRecords(Records):
    """Read ArrayRecord files of tf.train.Example messages; remote files are copied into the cache."""

    shards: str | tuple[str, ...]
    """Paths, URLs or patterns, with braces and globs."""

    def open(self) -> Examples:
        paths = files(self.shards)
        with ThreadPoolExecutor(8) as pool:
            return ArrayRecordExamples(self, paths, list(pool.map(count_records, paths)))


class ArrayRecordExamples(RecordExamples):
    """Read the records of ArrayRecord files."""

    only_whole = True

    def __init__(self, source: ArrayRecords, shards: Sequence[str], counts: Sequence[int]):
        super().__init__(source, shards, counts)
        self._readers: LruCache[Any] = LruCache(CACHED_READERS)

    def record(self, number: int, row: int) -> Mapping[str, Any]:
        (content,) = self._readers.get(number, lambda: open_reader(self._shards[number])).read([row])
        return tf_example.decode(content)


def count_records(path: str) -> int:
    """Count the records of a file, from the cache or from the file. Raises UsageError, BadShard."""
    digest = hashlib.sha256(json.dumps([path, *file_version(path)]).encode()).hexdigest()[:32]
    return int(cached(f"arrayrecord/{digest}.npy", lambda: np.array(open_reader(path).num_records())))


def open_reader(path: str) -> Any:
    """Open an ArrayRecord file. Raises BadShard: it is missing or has another format."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(local_copy(path), options="readahead_buffer_size:0", file_reader_buffer_size=2**15)
        reader.num_records()  # reads the end of the file
        if reader.ok():
            return reader
        reason = "it has no index of records at its end, so it is another file or was cut short"
    except (RuntimeError, ValueError) as error:
        reason = str(error)
    raise BadShard(f"{path} is no ArrayRecord file that can be read: {reason}")
