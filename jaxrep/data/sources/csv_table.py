"""Read a table of image paths, captions and labels."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import ListedExamples, read_beside
from jaxrep.data.sources.patterns import folder_of, local, read_utf8
from jaxrep.data.sources.records import Records
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import spec


@spec
class Csv(Records):
    """Read a table with a line of column names, then one example per line; open_clip's layout, separated by commas.

    The fields of ``Records`` name columns. All columns are metadata.
    """

    path: str
    """The table, or its URL. Paths of images are relative to its folder."""
    image: str = "filepath"
    """Column of the images' paths; empty: none."""
    text: str = "title"
    """Column of the captions; empty: none."""
    separator: str = ","
    """Character between two columns."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(self.separator) != 1:
            yield f"separator is one character, not {self.separator!r}"

    def open(self) -> Examples:
        path = local(self.path)
        table = csv.reader(io.StringIO(read_utf8(path), newline=""), delimiter=self.separator)
        try:
            header = next(table, [])
            rows = [(table.line_num, row) for row in table if row]
        except csv.Error as error:
            raise UsageError(f"{path} is not a table separated by {self.separator!r}: {error}") from error
        self.check(path, header)
        return CsvExamples(self, path, rows, header)


class CsvExamples(ListedExamples):
    """Read rows of a table, as (line number, values)."""

    def __init__(self, source: Csv, path: str, rows: Sequence[tuple[int, Sequence[str]]], header: Sequence[str]):
        super().__init__(source, path, rows)
        self._header = header
        self._columns = {part: header.index(name) for part, name in source.values().items()}

    def key(self, index: int) -> str:
        """Return the value of the first part: the image's path as in the table, or the text."""
        line, row = self._rows[index]
        column = next(iter(self._columns.values()))
        return (row[column] if column < len(row) else "") or f"{os.path.basename(self._path)}:{line}"

    def content(self, index: int, part: str) -> bytes:
        row, column = self._rows[index][1], self._columns[part]
        if column >= len(row):
            raise BadSample(self.place(index, part), f"the line ends before the column {self._header[column]!r}")
        if part != "image":
            return row[column].encode()
        return read_beside(folder_of(self._path), row[column], self.place(index, part))

    def place(self, index: int, part: str) -> str:
        return f"{self._path}, line {self._rows[index][0]}, column {self._header[self._columns[part]]!r}"

    def metadata(self, index: int) -> Mapping[str, Any]:
        return {name: _number(value) for name, value in zip(self._header, self._rows[index][1], strict=False)}


def _number(value: str) -> str | float | None:
    try:
        return float(value) if value else None
    except ValueError:
        return value
