"""Read columns of the Parquet table beside a tar, joined by key: 00000.parquet beside 00000.tar, as of img2dataset.

The table may have rows without an example, as of failed downloads, and lack rows; a key with several rows has none that
can be read. All of this is counted.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrep.data.sources.json_path import ABSENT, find_value
from jaxrep.data.sources.parquet import arrow_column, open_parquet
from jaxrep.data.sources.values import is_null, metadata_column
from jaxrep.errors import BadShard, JaxrepError
from jaxrep.extras import import_extra
from jaxrep.storage import file_version

KEY = "key"
"""Column of the keys of the tar's members."""
TEXTS = ("string", "large_string", "string_view")
"""Arrow's types of texts."""


class ShardColumn(NamedTuple):
    """Hold one column of the examples of a shard."""

    values: Any  # float64 [N], or N strings
    facts: Mapping[str, int]  # what differs between table and shard, in numbers (FACTS)
    known: bool  # whether an example has the column, with a value or null

    def with_unknown(self, count: int) -> "ShardColumn":
        """Return the column with ``count`` unknown values at its end."""
        if not count:
            return self
        unknown = np.full(count, np.nan) if isinstance(self.values, np.ndarray) else [""] * count
        joined = np.append(self.values, unknown) if isinstance(unknown, np.ndarray) else [*self.values, *unknown]
        return self._replace(values=joined)


FACTS = {
    "shards": "shards without a table beside them",
    "keyless": f"tables without a column '{KEY}'",
    "columnless": "tables without this column",
    "foreign": "tables with other keys than their shards",
    "rowless": "examples without a row in the table beside their shard",
    "ambiguous": "examples with several rows there",
    "json": "values that were therefore read from the metadata in tars",
    "rows": "rows of tables without an example, as of failed downloads",
}
"""What may differ between tables and shards -> its words."""


def table_path(shard: str) -> str:
    """Return the path of the table beside a shard; empty: its name has none."""
    return f"{shard.removesuffix('.tar')}.parquet" if shard.endswith(".tar") else ""


def open_table(shard: str) -> Any:
    """Open the table beside a shard; None: there is none. Raises BadShard: it cannot be read."""
    path = table_path(shard)
    try:
        _ = path and file_version(path)
    except BadShard as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    try:
        return open_parquet(path) if path else None
    except BadShard as error:
        raise BadShard(f"{error}; if it is no table of {shard}, remove it: the metadata in the tar are read") from error


def column_types(shard: str) -> dict[str, str]:
    """Return the columns of the table beside a shard with Arrow's names of their types; none if it cannot be read."""
    try:
        table = open_table(shard)
    except JaxrepError:  # also where pyarrow is missing: the metadata in JSON are read instead
        return {}
    return {} if table is None else {field.name: str(field.type) for field in table.schema_arrow}


def read_column(
    shard: str, name: str, keys: Sequence[str], metadata: Callable[[int], Mapping[str, Any]]
) -> ShardColumn:
    """Read column ``name`` of the examples ``keys``: from the table beside their shard, else from their metadata.

    ``metadata(row)``: returns the metadata in the shard. Raises BadShard: the table cannot be read.
    """
    table, facts = open_table(shard), {}
    names = [] if table is None else table.schema_arrow.names
    values, found = np.full(len(keys), np.nan), np.zeros(len(keys), bool)
    if table is None or not {KEY, name} <= {*names}:
        facts = {"shards" if table is None else "columnless" if KEY in names else "keyless": 1}
    else:
        values, found, facts = _join(table, table_path(shard), name, keys)
    if found.all():
        return ShardColumn(values, facts, len(keys) > 0)
    merged, read = [None if is_null(value) else value for value in values], 0
    for row in np.flatnonzero(~found).tolist():
        value = find_value(metadata(row), name)
        merged[row], read = (None, read) if value is ABSENT else (value, read + 1)
    return ShardColumn(metadata_column(merged), {**facts, "json": read}, bool(found.any()) or read > 0)


def _join(table: Any, path: str, name: str, keys: Sequence[str]) -> tuple[Any, np.ndarray, dict[str, int]]:
    """Return a column of a table by key, which keys have one row, and what differs. Raises BadShard."""
    pyarrow, compute = (import_extra(module, "parquet") for module in ("pyarrow", "pyarrow.compute"))
    try:
        rows = table.read(columns=list({KEY, name}))
        row_keys, wanted = rows.column(KEY).cast(pyarrow.string()).combine_chunks(), pyarrow.array(keys, "string")
        counts = row_keys.value_counts()
        several = compute.is_in(wanted, counts.filter(compute.greater(counts.field("counts"), 1)).field("values"))
        first = compute.index_in(wanted, row_keys)
        row = compute.if_else(several, pyarrow.scalar(None, first.type), first)
        values, found = arrow_column(rows.column(name).take(row)), np.asarray(row.is_valid())
        has_example = np.asarray(compute.is_in(row_keys, wanted))
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise BadShard(f"{path} cannot be joined with its tar by '{KEY}': {error}") from error
    if len(keys) and len(row_keys) and not has_example.any():
        return np.full(len(keys), np.nan), np.zeros(len(keys), bool), {"foreign": 1}
    differences = {"rowless": first.null_count, "ambiguous": np.asarray(several).sum(), "rows": (~has_example).sum()}
    return values, found, {fact: int(count) for fact, count in differences.items()}


class Differences:
    """Count what differs between tables and shards, and say it."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, shard: str, facts: Mapping[str, int]) -> None:
        """Add the numbers of one shard."""
        for fact, count in facts.items():
            if count:
                self._counts[fact] += count
                self._first.setdefault(fact, shard)

    def sentence(self, shards: int) -> str:
        """Return all differences of ``shards`` shards; empty if there are none, or no table at all."""
        if self._counts["shards"] == shards:
            return ""
        return "; ".join(
            f"{words}: {self._counts[fact]:,} (the first: {self._first[fact]})"
            for fact, words in FACTS.items()
            if self._counts[fact]
        )
