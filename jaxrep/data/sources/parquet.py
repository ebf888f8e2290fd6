"""Read image-text pairs from Parquet tables: one row per example, images as bytes or as paths (extra: parquet)."""

import operator
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.source import Examples
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.records import RecordExamples, Records
from jaxrep.data.sources.values import join_column, metadata_column, plain_value
from jaxrep.errors import BadShard, UsageError, hint
from jaxrep.extras import import_extra
from jaxrep.spec import spec
from jaxrep.storage import open_ranges

Schema = tuple[list[str], np.ndarray]
"""Columns of a file, and the row after the last one of each row group."""

MAX_GROUP_BYTES = 2 * 2**30
"""Most bytes of memory for the columns of a row group."""
BATCH_ROWS = 1024
CACHED_BYTES = 256 * 2**20
"""Bytes of row groups that are held in memory, the most recent ones. A row is read with all rows of its group."""


@spec
class ParquetTable(Records):
    """Read the rows of Parquet files; remote files are read in ranges. Columns that are no part are metadata.

    A Parquet file is read by whole row groups. With images in it, an order by windows of files reads each group once or
    twice, and a uniform order reads a group for each example.
    """

    files: str | tuple[str, ...]
    """Paths, URLs or patterns, with braces and globs."""

    def open(self) -> Examples:
        paths = files(self.files)
        with ThreadPoolExecutor(8) as pool:
            schemas = list(pool.map(_schema, paths))
        for path, (names, _) in zip(paths, schemas, strict=True):
            self.check(path, names)
        return ParquetExamples(self, paths, schemas)


def _schema(path: str) -> Schema:
    metadata = open_parquet(path).metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return metadata.schema.to_arrow_schema().names, np.cumsum(rows, dtype=np.int64)


def open_parquet(path: str) -> Any:
    """Open a Parquet file. Raises BadShard: it is missing or has another format; UsageError: pyarrow is missing."""
    pyarrow, parquet = (import_extra(module, "parquet") for module in ("pyarrow", "pyarrow.parquet"))
    try:
        return parquet.ParquetFile(open_ranges(path), pre_buffer=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadShard(f"{path} is no Parquet file that can be read: {error}") from error


class ParquetExamples(RecordExamples):
    """Read the rows of Parquet files."""

    def __init__(self, source: ParquetTable, shards: Sequence[str], schemas: Sequence[Schema]):
        super().__init__(source, shards, [int(ends[-1]) if len(ends) else 0 for _, ends in schemas])
        self._schemas = schemas
        self._tables: LruCache[Any] = LruCache(CACHED_BYTES, operator.attrgetter("nbytes"))

    def record(self, number: int, row: int) -> Mapping[str, Any]:
        return self._cells(number, row, list(self._value_names.values()))

    def others(self, number: int, row: int) -> Mapping[str, Any]:
        return self._cells(number, row, [x for x in self._schemas[number][0] if x not in self._value_names.values()])

    def _cells(self, number: int, row: int, columns: list[str]) -> Mapping[str, Any]:
        if not columns:
            return {}
        ends = self._schemas[number][1]
        group = int(np.searchsorted(ends, row, side="right"))
        table = self._tables.get((number, group, *columns), lambda: self._read_group(number, group, columns))
        place = row - (int(ends[group - 1]) if group else 0)
        return {name: table.column(name)[place].as_py() for name in columns}

    def _read_group(self, number: int, group: int, columns: list[str]) -> Any:
        """Read columns of a row group batch by batch: few bytes of a file can stand for many in memory."""
        file, batches, size = open_parquet(self._shards[number]), [], 0
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
            batches.append(batch)
            size += batch.nbytes
            if size > MAX_GROUP_BYTES:
                raise UsageError(
                    f"{self._shards[number]}: row group {group} takes more than {MAX_GROUP_BYTES / 2**30:g} GiB of "
                    "memory, and a row is read with its group: write the file with smaller row groups"
                )
        return import_extra("pyarrow", "parquet").Table.from_batches(batches)

    def column_names(self) -> Sequence[str]:
        return tuple(dict.fromkeys([*self.source.fields(), *self._schemas[0][0]]))

    def column_parts(self, name: str) -> Iterator[Any]:
        """Read a column of the metadata file by file, without the other values of its rows."""
        if name in self.source.fields():
            yield from super().column_parts(name)
            return
        for path in self._shards:
            file = open_parquet(path)
            if name not in file.schema_arrow.names:
                raise UsageError(f"{path} has no column {name!r}; {hint(name, file.schema_arrow.names)}")
            batches = file.iter_batches(BATCH_ROWS, columns=[name])
            yield join_column([arrow_column(batch.column(0)) for batch in batches] or [np.empty(0)])


def arrow_column(values: Any) -> Any:
    """Return values of Arrow as a column of metadata: float64 with NaN, or strings; nulls alone are NaN."""
    types = import_extra("pyarrow", "parquet").types
    if any(is_kind(values.type) for is_kind in (types.is_integer, types.is_floating, types.is_boolean)):
        return values.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    return metadata_column([plain_value(value) for value in values.to_pylist()])
