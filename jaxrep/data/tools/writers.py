"""Write one shard of examples as a file: tar, ArrayRecord, Parquet, or images in a folder with a table."""

import csv
import dataclasses
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxrep.data.images.decode import open_image, upright
from jaxrep.data.source import Examples
from jaxrep.data.sources import tf_example
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.sources.numbers import Numbers
from jaxrep.data.sources.values import Content
from jaxrep.data.transforms.base import Subset
from jaxrep.errors import BadSample, UsageError
from jaxrep.extras import import_extra
from jaxrep.storage import utf8

ROW_GROUP = 64
"""Rows of a Parquet row group: reading one row reads this many."""

PARTS: dict[str, Callable[[bytes], Any]] = {"image": bytes, "text": bytes.decode, "label": int}
"""Name of a part -> how its bytes become the value of a table."""

MAX_EXACT = 2**53
"""Whole numbers up to this one are exact as floats."""

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""Formats that are kept; other formats are written as PNG, which is lossless."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Hold an example as it is stored."""

    number: int  # in the source
    parts: Mapping[str, bytes]  # image, text, label
    extension: str  # of the image
    metadata: Mapping[str, Any]  # strings and numbers, with ``key``

    def values(self) -> dict[str, Any]:
        """Return parts and metadata by name: the image as bytes, the text as a string, the label as a number."""
        parts = {name: decode(self.parts[name]) for name, decode in PARTS.items() if name in self.parts}
        return {**parts, **self.metadata}


def read_row(examples: Examples, index: int) -> Row:
    """Read one example of any source, with its files unchanged. Raises BadSample."""
    while isinstance(examples, Subset):
        examples, index = examples.origin(index)
    if isinstance(examples, EncodedExamples):
        parts, metadata = examples.contents(index), {**examples.metadata(index), "key": examples.key(index)}
        examples.check(index, parts)
        if "mask" in parts:
            raise UsageError("an example has a 'mask', and only images, texts and labels can be stored")
        numbers = examples.source.number_parts()
        stored = {name: _stored(name, content, numbers.get(name)) for name, content in parts.items()}
        metadata |= {name: value for name, value in stored.items() if name not in PARTS}
        parts = {name: content for name, content in parts.items() if name in PARTS}
    else:
        parts, metadata = _plain(examples[index])
    extension = ""
    if "image" in parts:
        parts["image"], extension = _with_extension(parts["image"], f"{examples.shard(index)}, example {index}")
    others = {name: value for name, value in _readable(metadata).items() if name not in parts}
    return Row(index, parts, extension, others)


def _stored(name: str, content: Content, numbers: Numbers | None) -> Any:
    """Return a part as a table holds it. Raises UsageError: it has several values."""
    value: Any = numbers.decode(content) if numbers and isinstance(content, bytes) else content
    if isinstance(content, tuple) or np.ndim(value):
        count = len(content) if isinstance(content, tuple) else value.size
        raise UsageError(f"an example has {count} values of '{name}', and one is stored: choose one")
    return value.item() if numbers else content if name in PARTS else content.decode()


def _readable(value: Any) -> Any:
    """Return a value of JSON with valid Unicode, which the name of a file, or a half of a character, need not be."""
    if isinstance(value, dict):
        return {_readable(name): _readable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return utf8(value).decode() if isinstance(value, str) else value


def _flat(value: Any, *, lists: bool = True) -> Any:
    """Return a value of JSON as a record holds it: a text, a number, a list of texts or of floats; others as JSON."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if not isinstance(value, dict | list):
        return value
    kinds = {*map(type, value)} if lists and isinstance(value, list) else set()
    if kinds == {str}:
        return value
    large = any(isinstance(number, int) and abs(number) > MAX_EXACT for number in value)
    if kinds and kinds <= {int, float} and not large:
        return [float(number) for number in value]
    return json.dumps(value, ensure_ascii=False)


def _plain(example: Mapping[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    parts, metadata = {}, {}
    for name, value in example.items():
        if name == "image":
            parts[name] = _png(Image.fromarray(value))
        elif name in ("text", "label"):
            if np.ndim(value):
                raise UsageError(f"an example has {len(value)} values of '{name}', and one is stored: choose one")
            parts[name] = utf8(str(value))
        elif np.ndim(value):
            raise UsageError(
                f"an example has {np.size(value)} values of '{name}', and one is stored: leave it out by SelectFields"
            )
        else:
            metadata[name] = value if isinstance(value, str) else np.asarray(value).item()
    return parts, metadata


def _with_extension(content: bytes, place: str) -> tuple[bytes, str]:
    """Return an image and its extension, as PNG if other readers may not know its format."""

    def read(image: Image.Image) -> tuple[bytes, str]:
        known = EXTENSIONS.get(image.format or "")
        return (content, known) if known else (_png(upright(image)), "png")

    try:
        return open_image(content, read)
    except ValueError as error:
        raise BadSample(place, str(error)) from error


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


# Formats -------------------------------------------------------------------------------------------------------------


def write_tar(path: Path, rows: Sequence[Row]) -> None:
    """Write members 000000012.jpg, .txt, .cls and .json; the same rows give the same bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            extensions = {"image": row.extension, "text": "txt", "label": "cls"}
            members = {extensions[part]: content for part, content in row.parts.items()}
            members["json"] = json.dumps(row.metadata, ensure_ascii=False).encode()
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{row.number:09}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def write_array_record(path: Path, rows: Sequence[Row]) -> None:
    """Write one tf.train.Example per record; a value that is null has no feature."""
    examples = ({name: _flat(value) for name, value in row.values().items() if value is not None} for row in rows)
    write_examples(path, examples)


def write_examples(path: Path, examples: Iterable[Mapping[str, tf_example.Value]]) -> None:
    """Write an ArrayRecord file with one record per group, so that each can be read alone."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for features in examples:
        writer.write(tf_example.encode(features))
    writer.close()


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Write one column per part and per name of the metadata; values of different types become strings."""
    parquet = import_extra("pyarrow.parquet", "parquet")
    values = [row.values() for row in rows]
    names = dict.fromkeys(name for row in values for name in row)
    columns = {name: _column([_flat(row.get(name)) for row in values]) for name in names}
    compression = {name: "none" if name == "image" else "zstd" for name in columns}  # images are compressed already
    table = import_extra("pyarrow", "parquet").table(columns)
    parquet.write_table(table, path, row_group_size=ROW_GROUP, compression=compression)


def _column(values: list[Any]) -> list[Any]:
    """Return values of one type: floats where some of the numbers are, and texts where types differ."""
    kinds = {(list, type(value[0])) if isinstance(value, list) else type(value) for value in values}
    kinds.discard(type(None))
    if len(kinds) < 2:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(_flat(value, lists=False)) for value in values]


def write_folder(path: Path, rows: Sequence[Row]) -> None:
    """Write images, and ``pairs.csv`` with one line per example: filepath, title, label, and the metadata."""
    path.mkdir()
    table = []
    for row in rows:
        line: dict[str, Any] = {}
        if "image" in row.parts:
            line["filepath"] = f"{row.number:09}.{row.extension}"
            (path / line["filepath"]).write_bytes(row.parts["image"])
        values = row.values()
        line |= {column: values[name] for name, column in (("text", "title"), ("label", "label")) if name in values}
        others = {name: _flat(value, lists=False) for name, value in row.metadata.items() if name not in line}
        table.append(line | others)
    write_table(path / "pairs.csv", table)


def write_table(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Write a table with the columns of all lines."""
    columns = list(dict.fromkeys(name for line in table for name in line))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)


FORMATS: dict[str, tuple[str, Callable[[Path, Sequence[Row]], None]]] = {
    "tar": (".tar", write_tar),
    "arrayrecord": (".array_record", write_array_record),
    "parquet": (".parquet", write_parquet),
    "csv": ("", write_folder),
}
"""Kind -> extension of a shard's name, and function that writes a shard."""
