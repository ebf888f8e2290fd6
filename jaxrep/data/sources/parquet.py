"""Image-text pairs in Parquet tables: a row an example, pictures as bytes or as paths (extra: parquet)."""

import operator
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import known
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.records import RecordExamples, Records, plain
from jaxrep.errors import BadSample, BadShard, UsageError, hint
from jaxrep.spec import spec
from jaxrep.storage import ranges

Schema = tuple[list[str], np.ndarray]
"""Of a file: its columns, and the row after the last one of each row group."""

NEAR = 256 * 2**20
"""Bytes of row groups that are kept in memory, of those used last. A row is read with all rows of its group."""


@spec
class ParquetTable(Records):
    """The rows of Parquet files; remote ones are read in ranges. Columns that are no part are metadata.

    A Parquet file gives whole row groups: with pictures in it, an order by windows of files reads each group once or
    twice, a uniform one reads a group for each example.
    """

    files: str | tuple[str, ...]
    """Paths, URLs or patterns, with braces and globs."""

    def open(self) -> Examples:
        paths = files(self.files)
        with ThreadPoolExecutor(8) as pool:
            schemas = list(pool.map(_schema, paths))
        for path, (names, _) in zip(paths, schemas, strict=True):
            for name in self.values().values():
                if name not in names:
                    raise UsageError(f"{path} has no column {name!r}; {hint(name, names)}")
        return ParquetExamples(self, paths, schemas)


def _schema(path: str) -> Schema:
    metadata = opened(path).metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return metadata.schema.to_arrow_schema().names, np.cumsum(rows, dtype=np.int64)


def opened(path: str) -> Any:
    """An open Parquet file. Raises BadShard: it is missing or none; UsageError where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"{path} is read by pyarrow, which is not installed: pip install 'jaxrep[parquet]'") from error
    try:
        return parquet.ParquetFile(ranges(path), pre_buffer=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise BadShard(f"{path} is no Parquet file that can be read: {error}") from error


class ParquetExamples(RecordExamples):
    """The rows of Parquet files."""

    def __init__(self, source: ParquetTable, shards: Sequence[str], schemas: Sequence[Schema]):
        super().__init__(source, shards, [int(ends[-1]) if len(ends) else 0 for _, ends in schemas])
        self._schemas = schemas
        self._columns = list(source.values().values())
        self._tables: LruCache[Any] = LruCache(NEAR, operator.attrgetter("nbytes"))

    def record(self, number: int, row: int) -> Mapping[str, Any]:
        return self._cells(number, row, self._columns)

    def metadata(self, index: int) -> Mapping[str, Any]:
        number, row = self.find(index)
        others = [name for name in self._schemas[number][0] if name not in self._columns]
        values = {name: plain(value) for name, value in self._cells(number, row, others).items()}
        return {name: value for name, value in values.items() if isinstance(value, str | int | float)}

    def _cells(self, number: int, row: int, columns: Sequence[str]) -> Mapping[str, Any]:
        ends = self._schemas[number][1]
        group = int(np.searchsorted(ends, row, side="right"))
        table = self._tables.get((number, group, *columns), lambda: self._read(number, group, columns))
        at = row - (int(ends[group - 1]) if group else 0)
        return {name: table.column(name)[at].as_py() for name in columns}

    def _read(self, number: int, group: int, columns: Sequence[str]) -> Any:
        import pyarrow

        path = self._shards[number]
        try:
            return opened(path).read_row_group(group, columns=list(columns), use_threads=False)
        except (pyarrow.ArrowException, OSError) as error:
            raise BadSample(f"{path}, row group {group}", f"it cannot be read ({error})") from error

    def column(self, name: str) -> Any:
        """As of other sources; a column of the metadata is read alone, without a pass over the rows."""
        if name in self.source.fields():
            return super().column(name)
        values = []
        for path in self._shards:
            file = opened(path)
            if name not in file.schema_arrow.names:
                raise UsageError(f"{path} has no column {name!r}; {hint(name, file.schema_arrow.names)}")
            values += [plain(value) for value in file.read(columns=[name]).column(name).to_pylist()]
        return known(values)
