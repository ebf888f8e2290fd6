"""Pictures and captions in plain files: a folder of pictures, a table of paths, captions and labels, lines of text."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples, EncodedSource, read_file
from jaxrep.data.sources.patterns import local
from jaxrep.errors import BadSample, BadShard, UsageError, hint
from jaxrep.spec import spec
from jaxrep.storage import read, remote, store, told

PICTURES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"))
"""File names that end so are pictures."""


@spec
class ImageFolder(EncodedSource):
    """The pictures in a folder and below it, in the order of their names."""

    path: str
    """The folder, or its URL."""
    labels_from_folders: bool = True
    """Whether a picture's label is its sub-folder: these are numbered from 0 in alphabetical order."""

    def parts(self) -> tuple[str, ...]:
        return ("image", "label") if self.labels_from_folders else ("image",)

    def open(self) -> Examples:
        root = local(self.path).rstrip("/") or "/"
        names = pictures(root)
        if not names:
            raise UsageError(f"{root} holds no picture: no file that ends in {', '.join(sorted(PICTURES))}")
        if not self.labels_from_folders:
            return ImageFolderExamples(self, root, names, [])
        if bare := [name for name in names if "/" not in name]:
            raise UsageError(
                f"{root}/{bare[0]} lies in no sub-folder, so it has no label: set labels_from_folders=False"
            )
        folders = sorted({name.partition("/")[0] for name in names})
        if self.classes not in (0, len(folders)):
            raise UsageError(f"{root} holds {len(folders)} folders of pictures, and classes says {self.classes}")
        return ImageFolderExamples(self, root, names, folders)


def pictures(root: str) -> list[str]:
    """Paths of the pictures below ``root``, relative to it and sorted, what is hidden left out. Raises UsageError."""
    found = [name for name in _below(root) if os.path.splitext(name)[1].lower() in PICTURES]
    return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))


def _below(root: str) -> Iterator[str]:
    if remote(root):
        files, name = store(root)
        try:
            yield from (path.removeprefix(name).lstrip("/") for path in files.find(name))
        except Exception as error:  # the drivers of stores raise errors of their own types
            raise UsageError(f"the folder {root} cannot be listed ({told(error)})") from error
        return
    if not os.path.isdir(root):
        raise UsageError(f"there is no folder {root}")
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from ((Path(folder) / name).relative_to(root).as_posix() for name in names)


class ImageFolderExamples(EncodedExamples):
    """The pictures ``names`` below ``root``, labeled by ``folders`` where these are given."""

    def __init__(self, source: EncodedSource, root: str, names: Sequence[str], folders: Sequence[str]):
        super().__init__(source)
        self._root, self._keys = root, names
        self._labels = {folder: number for number, folder in enumerate(folders)}
        self.classes = {"label": list(folders)} if folders else {}

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        return self._keys[index]

    def content(self, index: int, part: str) -> bytes:
        if part == "label":
            return str(self._labels[self._keys[index].partition("/")[0]]).encode()
        return read_file(self.shard(index), self.place(index, part))

    def place(self, index: int, part: str) -> str:
        return self.shard(index)

    def shard(self, index: int) -> str:
        return f"{self._root}/{self._keys[index]}"


@spec
class Csv(EncodedSource):
    """A table with a line of column names, then an example a line; open_clip's layout, with its separator a comma."""

    path: str
    """The table, or its URL. Paths in it are relative to its folder; other columns are metadata."""
    image: str = "filepath"
    """Column of the pictures' paths; empty: none."""
    text: str = "title"
    """Column of the captions; empty: none."""
    label: str = ""
    """Column of the class numbers; empty: none."""
    captions: tuple[str, ...] = ()
    """Columns of further captions: each is a field of this name."""
    separator: str = ","
    """What stands between two columns."""

    def parts(self) -> tuple[str, ...]:
        return tuple(self.columns())

    def columns(self) -> dict[str, str]:
        """The column of each part."""
        named = {"image": self.image, "text": self.text, "label": self.label} | {name: name for name in self.captions}
        return {part: name for part, name in named.items() if name}

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(self.separator) != 1:
            yield f"separator is one character, not {self.separator!r}"

    def open(self) -> Examples:
        path = local(self.path)
        try:
            text = read(path).decode("utf-8-sig")
            table = csv.reader(io.StringIO(text, newline=""), delimiter=self.separator)
            header = next(table, [])
            rows = [(table.line_num, row) for row in table if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UsageError(f"{path} is not a table in UTF-8 separated by {self.separator!r}: {error}") from error
        except BadShard as error:
            raise UsageError(f"the table {error}") from error
        places = _places(self.columns(), header, path)
        return CsvExamples(self, path, rows, header, places)


def _places(columns: Mapping[str, str], header: Sequence[str], path: str) -> dict[str, int]:
    for name in columns.values():
        if name not in header:
            raise UsageError(f"{path} has no column {name!r}; {hint(name, header)}")
    return {part: header.index(name) for part, name in columns.items()}


class CsvExamples(EncodedExamples):
    """Rows of a table: (line number, its values); ``places``: in which column each part stands."""

    def __init__(
        self,
        source: EncodedSource,
        path: str,
        rows: Sequence[tuple[int, Sequence[str]]],
        header: Sequence[str],
        places: Mapping[str, int],
    ):
        super().__init__(source)
        self._path, self._rows, self._header, self._places = path, rows, header, places

    def __len__(self) -> int:
        return len(self._rows)

    def shard(self, index: int) -> str:
        return self._path

    def key(self, index: int) -> str:
        """The first column that is read: the picture's path as the table has it, or the text."""
        line, row = self._rows[index]
        at = next(iter(self._places.values()))
        return (row[at] if at < len(row) else "") or f"{os.path.basename(self._path)}:{line}"

    def content(self, index: int, part: str) -> bytes:
        _, row = self._rows[index]
        if self._places[part] >= len(row):
            raise BadSample(
                self.place(index, part), f"the line ends before the column {self._header[self._places[part]]!r}"
            )
        value = row[self._places[part]]
        if part != "image":
            return value.encode()
        return read_file(beside(self._path, value), self.place(index, part))

    def place(self, index: int, part: str) -> str:
        return f"{self._path}, line {self._rows[index][0]}, column {self._header[self._places[part]]!r}"

    def metadata(self, index: int) -> Mapping[str, Any]:
        return {name: _number(value) for name, value in zip(self._header, self._rows[index][1], strict=False)}


def beside(table: str, path: str) -> str:
    """A path that a table names: relative to the table's folder, unless it is absolute or a URL."""
    if remote(path) or path.startswith("/"):
        return path
    folder, slash, _ = table.rpartition("/")
    return f"{folder}{slash}{path}"


def _number(value: str) -> str | float | None:
    try:
        return float(value) if value else None
    except ValueError:
        return value


@spec
class TextLines(EncodedSource):
    """The lines of a text file, a text each; an example's key is its line."""

    path: str
    """The file, or its URL."""

    def parts(self) -> tuple[str, ...]:
        return ("text",)

    def open(self) -> Examples:
        path = local(self.path)
        try:
            lines = read(path).decode("utf-8-sig").removesuffix("\n").split("\n")
        except (BadShard, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read as lines of UTF-8: {error}") from error
        return TextLineExamples(self, path, lines)


class TextLineExamples(EncodedExamples):
    """Lines of the file ``path``."""

    def __init__(self, source: EncodedSource, path: str, lines: Sequence[str]):
        super().__init__(source)
        self._path, self._lines = path, lines

    def __len__(self) -> int:
        return len(self._lines)

    def shard(self, index: int) -> str:
        return self._path

    def key(self, index: int) -> str:
        return self._lines[index]

    def content(self, index: int, part: str) -> bytes:
        return self._lines[index].encode()

    def place(self, index: int, part: str) -> str:
        return f"{self._path}, line {index + 1}"
