"""Read files that ``jaxrep embed`` and ``jaxrep data score`` write, some rows at a time and never a whole file.

The columns of a file are ``key`` (the name of an example), ``index`` (its index in the data, ascending), and numbers,
D or one per example. The summary beside the files names the data and the model, and has the rows and bytes of each.
"""

import abc
import dataclasses
import hashlib
import itertools
import json
import mmap
import operator
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.local_copy import local_copy
from jaxrep.data.sources import tf_example
from jaxrep.data.sources.array_record import open_reader
from jaxrep.data.sources.parquet import open_parquet
from jaxrep.errors import BadSample, BadShard, JaxrepError, UsageError, hint
from jaxrep.npy import Header, read_npy_header
from jaxrep.storage import file_version, open_stream, read_bytes, utf8

SUMMARY = "embedding.json"
"""Name of the summary in a folder of shards. That of a single file has the file's name and ``.json``."""
OPEN_FILES = 64
"""Files that stay open."""
CACHED_BYTES = 256 * 2**20
"""Bytes of a Parquet file's row groups in memory, the most recent ones. A row is read with its group, of 1,024 rows."""
PART_ROWS = 10_000
"""Rows that are read at a time when a whole column is read."""
KEY_LENGTH = 255
"""Largest number of characters of a key in embeddings, whose arrays of keys are as wide as the longest."""

Rows = dict[str, np.ndarray]
"""Columns of B rows: ``key`` [B], strings as objects, and numbers [B,D]; a number per row, such as ``index``, [B,1]."""


def short_key(key: str) -> str:
    """Return a key as valid Unicode; a long one by its start and the first 64 bits of its SHA-256 digest."""
    content = utf8(key)
    key = content.decode()
    return key if len(key) <= KEY_LENGTH else f"{key[: KEY_LENGTH - 17]}…{hashlib.sha256(content).hexdigest()[:16]}"


# One file ------------------------------------------------------------------------------------------------------------


class EmbeddingFile(abc.ABC):
    """Give random access to the rows of one file. Threads may read at the same time."""

    @abc.abstractmethod
    def read(self, rows: np.ndarray, names: Sequence[str]) -> Rows:
        """Return columns of ``rows`` [B]. Raises KeyError: there is no such column."""


class NpzFile(EmbeddingFile):
    """Map a .npz file into memory; a remote one is copied into the cache."""

    def __init__(self, path: str):
        with open_stream(local_copy(path)) as file, zipfile.ZipFile(file) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            self._places = {name: _place(file, member) for name, member in members.items()}
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, rows: np.ndarray, names: Sequence[str]) -> Rows:
        return {name: self._read(name, rows) for name in names}

    def _read(self, name: str, rows: np.ndarray) -> np.ndarray:
        header, start = self._places[name]
        values = np.ndarray(header.shape, header.dtype, self._content, start)[rows]
        return values.astype(object) if name == "key" else values.reshape(len(rows), -1)


def _place(file: Any, member: zipfile.ZipInfo) -> tuple[Header, int]:
    """Return an array's header, and where its data begin in a .npz file. Raises ValueError: it cannot be mapped."""
    file.seek(member.header_offset)
    lengths = struct.unpack("<26x2H", file.read(30))  # of the name and of further fields
    file.seek(member.header_offset + 30 + sum(lengths))
    header = read_npy_header(file)
    if member.compress_type != zipfile.ZIP_STORED or header.fortran_order or header.dtype.hasobject:
        raise ValueError(f"{member.filename} is compressed or no plain array, so that its rows cannot be mapped")
    return header, file.tell()


class ParquetFile(EmbeddingFile):
    """Read a Parquet file by row groups."""

    def __init__(self, path: str):
        metadata = open_parquet(path).metadata
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._path, self._ends = path, np.cumsum(rows, dtype=np.int64)
        self._names = metadata.schema.to_arrow_schema().names
        self._groups: LruCache[np.ndarray] = LruCache(CACHED_BYTES, operator.attrgetter("nbytes"))

    def read(self, rows: np.ndarray, names: Sequence[str]) -> Rows:
        groups = np.searchsorted(self._ends, rows, side="right").tolist()
        starts = np.concatenate([[0], self._ends])[groups]
        places = list(zip(groups, (rows - starts).tolist(), strict=True))
        cells = {name: [self._group(name, group)[row] for group, row in places] for name in names}
        return {name: np.array(values, object if name == "key" else None) for name, values in cells.items()}

    def _group(self, name: str, group: int) -> np.ndarray:
        return self._groups.get((name, group), lambda: self._read_group(name, group))

    def _read_group(self, name: str, group: int) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        column = open_parquet(self._path).read_row_group(group, [name]).column(name).combine_chunks()
        if name == "key":
            return np.array(column.to_pylist(), object)
        numbers = column.flatten() if column.type.num_fields else column  # of lists, or one per row
        return numbers.to_numpy(zero_copy_only=False).reshape(len(column), -1)


class ArrayRecordFile(EmbeddingFile):
    """Read the records of an ArrayRecord file; a remote one is copied into the cache."""

    def __init__(self, path: str):
        self._reader = open_reader(path)

    def read(self, rows: np.ndarray, names: Sequence[str]) -> Rows:
        records = [tf_example.decode(content) for content in self._reader.read(rows.tolist())]
        columns = {name: [record[name] for record in records] for name in names}
        keys = {"key": np.array([key.decode() for (key,) in columns["key"]], object)} if "key" in columns else {}
        numbers = {name: np.array(values) for name, values in columns.items() if name not in keys}
        return numbers | keys


FORMATS: dict[str, Callable[[str], EmbeddingFile]] = {
    ".npz": NpzFile,
    ".parquet": ParquetFile,
    ".array_record": ArrayRecordFile,
}
"""Ending -> class of its files."""


# A data set ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Summary:
    """Describe embeddings of a data set, which are finished."""

    model: str
    """Digest of the model."""
    fingerprint: Mapping[str, Any]
    """Fingerprint of the data."""
    parts: Sequence[str]
    """Columns of numbers."""
    length: int
    """Examples of the data."""
    per_shard: int
    """Examples per file of a folder."""
    digest: str
    """Digest of all values."""
    files: Mapping[str, tuple[int, int]]
    """Rows and bytes of each file, by its name. A file without rows does not exist."""
    reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Field of the data that was embedded -> of what it was read. Earlier versions wrote none."""

    @classmethod
    def read(cls, path: str) -> "Summary":
        """Read the summary beside embeddings. Raises UsageError: it is missing, damaged, or of an earlier version."""
        try:
            found = json.loads(read_bytes(path))
            files = {name: (int(file["rows"]), int(file["bytes"])) for name, file in found["files"].items()}
            reads = {name: str(place) for name, place in found.get("reads", {}).items()}
            digests = found["model"]["digest"], found["fingerprint"], found["parts"]
            summary = cls(*digests, int(found["length"]), int(found["per_shard"]), found["digest"], files, reads)
        except BadShard as error:
            raise UsageError(
                f"{error}: name what jaxrep embed or jaxrep data score wrote, when it is finished"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"{path} is no summary of embeddings with digests ({error!r}): embed the data again"
            ) from error
        if not files or min(summary.length, summary.per_shard, *itertools.chain(*files.values())) < 1:
            raise UsageError(f"{path} tells of no embedding: none of {summary.length} examples could be read")
        return summary


class EmbeddingFiles:
    """Give random access to the embeddings of a data set by the index of an example, in a folder or in one file.

    The k-th file of a folder has the examples from k times ``per_shard`` on, without those that could not be read.
    """

    def __init__(self, path: str):
        """Read the summary, and compare the sizes of the files with it. Raises UsageError, BadShard."""
        ending = PurePath(path).suffix
        self.path, self._is_folder = path, ending not in FORMATS or os.path.isdir(path)
        self.summary = Summary.read(f"{path}/{SUMMARY}" if self._is_folder else f"{path}.json")
        self._ending = PurePath(next(iter(self.summary.files))).suffix if self._is_folder else ending
        self._per_file = self.summary.per_shard if self._is_folder else self.summary.length
        self._open: LruCache[EmbeddingFile] = LruCache(OPEN_FILES)
        if self._ending not in FORMATS:
            raise UsageError(f"{path} has files that end in {self._ending!r}, expected {', '.join(FORMATS)}")
        self._check_sizes()

    def _check_sizes(self) -> None:
        sizes = {self._path(name): size for name, (_, size) in self.summary.files.items()}
        with ThreadPoolExecutor(8) as pool:
            for (path, size), found in zip(sizes.items(), pool.map(file_version, sizes), strict=True):
                if found.size != size:
                    raise UsageError(f"{path} has {found.size:,} bytes, and its summary says {size:,}: write it again")

    def width(self, name: str) -> int:
        """Return the numbers per example of a column. Raises UsageError: there is no such column."""
        first = next(number for number in range(self._count) if self._rows(number))
        return self._read(first, np.zeros(1, np.int64), [name])[name].shape[1]

    def read(self, indices: np.ndarray, names: Sequence[str]) -> Rows:
        """Return columns of the examples at ``indices`` [B].

        Raises:
            BadSample: an example has no embedding, since it could not be read.
            UsageError: there is no such column, or a file differs from the summary.
            BadShard: a file cannot be read.
        """
        columns: Rows = {}
        numbers = indices // self._per_file
        for number in np.unique(numbers).tolist():
            at = np.flatnonzero(numbers == number)
            found = self._read(number, self._find(number, indices[at]), ["index", *names])
            if not np.array_equal(found.pop("index")[:, 0], indices[at]):
                raise UsageError(
                    f"{self._path(self._name(number))} has other rows than its summary says: write it again"
                )
            for name, values in found.items():
                columns.setdefault(name, np.empty((len(indices), *values.shape[1:]), values.dtype))[at] = values
        return columns

    def column_parts(self, name: str, width: int) -> Iterator[np.ndarray]:
        """Yield a column of all examples in parts, [n,D]; NaN for those without an embedding."""
        for number in range(self._count):
            values = np.full((self._examples(number), width), np.nan, np.float32)
            rows = self._rows(number)
            for start in range(0, rows, PART_ROWS):
                part = self._read(number, np.arange(start, min(start + PART_ROWS, rows)), ["index", name])
                values[part["index"][:, 0] - number * self._per_file] = part[name]
            yield values

    @property
    def _count(self) -> int:
        return -(-self.summary.length // self._per_file)

    def _examples(self, number: int) -> int:
        """Return the number of examples whose rows a file has, or would have if they could be read."""
        return min(self._per_file, self.summary.length - number * self._per_file)

    def _rows(self, number: int) -> int:
        return self.summary.files.get(self._name(number), (0, 0))[0]

    def _name(self, number: int) -> str:
        return f"{number:05}{self._ending}" if self._is_folder else PurePath(self.path).name

    def _path(self, name: str) -> str:
        return f"{self.path}/{name}" if self._is_folder else self.path

    def _find(self, number: int, indices: np.ndarray) -> np.ndarray:
        """Return the rows of examples in their file, [B]. Indices ascend, and some are left out. Raises BadSample."""
        rows, places = self._rows(number), indices - number * self._per_file
        missing = self._examples(number) - rows
        if not missing:
            return places
        low, high = np.maximum(places - missing, 0), np.minimum(places + 1, rows)
        while (open_ := low < high).any():  # a binary search of all at once
            middle = (low + high) // 2
            smaller = self._indices(number, np.minimum(middle, rows - 1)) < indices
            low, high = np.where(open_ & smaller, middle + 1, low), np.where(open_ & ~smaller, middle, high)
        found = low < rows
        found[found] = self._indices(number, low[found]) == indices[found]
        if not found.all():
            place = f"{self.path}, example {indices[np.argmin(found)]}"
            raise BadSample(place, "it has no embedding, since it could not be read")
        return low

    def _indices(self, number: int, rows: np.ndarray) -> np.ndarray:
        return self._read(number, rows, ["index"])["index"][:, 0] if len(rows) else rows

    def _read(self, number: int, rows: np.ndarray, names: Sequence[str]) -> Rows:
        path = self._path(self._name(number))
        try:
            return self._open.get(path, lambda: FORMATS[self._ending](path)).read(rows, names)
        except JaxrepError:
            raise
        except KeyError as error:
            name = str(error.args[0])
            raise UsageError(f"{path} has no column '{name}'; {hint(name, self.summary.parts)}") from error
        except Exception as error:  # libraries raise errors of many types for damaged files
            raise BadShard(f"{path} cannot be read: {error}") from error
