"""Read a table of image paths, captions and labels."""

import contextlib
import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import ListedExamples, read_beside
from jaxrep.data.sources.patterns import folder_of, local, read_utf8
from jaxrep.data.sources.records import Records
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import spec

Row = tuple[int, Sequence[str]]
"""The number of the last line of a row, and its values."""
UNQUOTED = "if quotation marks belong to the texts, set quoted=False"


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

    quoted: bool | None = None
    """Whether a value in quotation marks may hold separators and line ends; by default only if no tab separates."""

    def open(self) -> Examples:
        path = local(self.path)
        quoting = (
            csv.QUOTE_MINIMAL if (self.separator != "\t" if self.quoted is None else self.quoted) else csv.QUOTE_NONE
        )
        text = io.StringIO(read_utf8(path), newline="")
        table = csv.reader(text, delimiter=self.separator, quoting=quoting, strict=True)
        try:
            with values_of_any_size():
                header = next(table, [])
                rows = [(table.line_num, row) for row in table if row]
        except csv.Error as error:
            place = f"{path}, line {table.line_num}"
            raise UsageError(
                f"{place}: it is no table separated by {self.separator!r} ({error}); {UNQUOTED}"
            ) from error
        self.check(path, header)
        separators = self.separator * max(len(header) - 1, 1)
        if swallowed := [line for line, row in rows if any(_holds_rows(value, separators) for value in row)]:
            what = f"{len(swallowed)} values span lines that look like rows, the first in line {swallowed[0]}"
            print(f"{path}: {what}; {UNQUOTED}", file=sys.stderr)
        return CsvExamples(self, path, rows, header)


@contextlib.contextmanager
def values_of_any_size() -> Iterator[None]:
    """Read values above Python's limit of 131,072 characters, within: a too long text is a mistake of its row alone."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _holds_rows(value: str, separators: str) -> bool:
    """Return whether a value spans lines with as many separators as rows have: a stray quotation mark began it."""
    return any(line.count(separators[0]) >= len(separators) for line in value.splitlines()[1:])


class CsvExamples(ListedExamples):
    """Read rows of a table."""

    def __init__(self, source: Csv, path: str, rows: Sequence[Row], header: Sequence[str]):
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
