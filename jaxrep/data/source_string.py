"""Parse the name of a source on a command line, ``KIND:PLACE,FIELD=VALUE,…``.

::

    tar:gs://bucket/pairs/{00000..41455}.tar,text=json:caption,image=jpg+png,numbers=score:json:similarity
    parquet:table-*.parquet,text=caption        arrayrecord:train-*.array_record,text=caption
    csv:pairs.csv,image=path,text=title         folder:images           lines:names.txt
    tfds:coco_captions/train[:10%],text=        openmoji                openmoji:test,image_size=32

The kind is optional if it follows from the path's ending. Fields are those of the source's spec; ``+`` joins the values
of a tuple, or the NAME:VALUE of a mapping.
"""

import dataclasses
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.source import Source
from jaxrep.data.sources.array_record import ArrayRecords
from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.sources.image_folder import ImageFolder
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.sources.patterns import local
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.sources.text_lines import TextLines
from jaxrep.data.sources.tfds import Tfds
from jaxrep.errors import UsageError, hint
from jaxrep.spec import problems

KINDS: dict[str, tuple[type[Source], str, tuple[str, ...]]] = {
    "tar": (TarShards, "shards", (".tar",)),
    "arrayrecord": (ArrayRecords, "shards", (".array_record", ".arrayrecord")),
    "parquet": (ParquetTable, "files", (".parquet",)),
    "tfds": (Tfds, "name", ()),
    "folder": (ImageFolder, "path", ()),
    "csv": (Csv, "path", (".csv", ".tsv")),
    "lines": (TextLines, "path", (".txt",)),
    "openmoji": (OpenMoji, "part", ()),
}
"""Kind -> its spec, the field that takes the place, and the endings of its files."""

ENDINGS = {ending: kind for kind, (_, _, endings) in KINDS.items() for ending in endings}

_KIND = re.compile(r"([a-z]+):(?!//)")
_FIELDS = re.compile(r"(?:,[a-z_]+=[^,=]*)+$")

FORMS = "tar:PATTERN, parquet:PATH, arrayrecord:PATTERN, tfds:NAME/SPLIT, folder:PATH, csv:PATH, lines:PATH or openmoji"


def parse_source(text: str, defaults: Mapping[str, Any] = types.MappingProxyType({})) -> Source:
    """Return the source that ``text`` names; nothing is opened.

    ``defaults``: values of fields that the source has and the text does not give. Raises UsageError: an unknown kind or
    field, or a value that does not fit.
    """
    cls, fields = parse_fields(text)
    names = typing.get_type_hints(cls)
    source = cls(**{name: value for name, value in defaults.items() if name in names} | fields)
    if wrong := problems(source):
        raise UsageError(f"{text}: {wrong[0]}")
    return source


def parse_fields(text: str) -> tuple[type[Source], dict[str, Any]]:
    """Return the class that ``text`` names, and the values of fields that it gives. Raises UsageError."""
    where, values = _split_fields(text)
    kind, place = split_kind(where)
    if kind not in KINDS:
        raise UsageError(f"{text}: there is no source of kind '{kind}'; {hint(kind, KINDS)}")
    cls, field, _ = KINDS[kind]
    annotations = typing.get_type_hints(cls)
    declared = {part.name: part for part in dataclasses.fields(cls)}
    if not place and declared[field].default is dataclasses.MISSING:
        raise UsageError(f"{text!r} does not say where the data are; a source is {FORMS}")
    if unknown := next((name for name in values if name not in declared), None):
        raise UsageError(f"{text}: {cls.__name__} has no field '{unknown}'; {hint(unknown, declared)}")
    fields = {name: _parse_value(name, annotations[name], value) for name, value in values.items()}
    if kind == "tfds":
        name, slash, fields["split"] = place.rpartition("/")
        if not slash:
            raise UsageError(f"{text}: a data set is named with its split, as tfds:{place}/train")
        place = name
    if kind == "csv" and where.lower().endswith(".tsv"):
        fields.setdefault("separator", "\t")
    return cls, ({field: place} if place else {}) | fields


def _split_fields(text: str) -> tuple[str, dict[str, str]]:
    """Split KIND:PLACE from its fields. Names of files and folders that exist may look like fields."""
    start = _start_of_fields(text, 0)
    start = _start_of_fields(text, _end_of_name(text, start, "/", os.path.isdir))
    start = _end_of_name(text, start, ",", os.path.exists)
    fields = text[start + 1 :]
    return text[:start], dict(field.split("=", 1) for field in fields.split(",")) if fields else {}


def _start_of_fields(text: str, begin: int) -> int:
    options = _FIELDS.search(text, begin)
    return options.start() if options else len(text)


def _end_of_name(text: str, start: int, mark: str, exists: Callable[[str], bool]) -> int:
    """Return the last place of ``mark`` after ``start``, or the end, up to which a name exists; else ``start``."""
    ends = (at for at in range(len(text), start, -1) if text[at : at + 1] in (mark, ""))
    return next((at for at in ends if exists(local(_written_kind(text[:at])[1]))), start)


def _written_kind(where: str) -> tuple[str, str]:
    """Split a kind from its place; it is empty where a file or folder has a name with a colon."""
    match = _KIND.match(where)
    if match and not os.path.exists(local(where.partition("/")[0])):
        return match[1], where[match.end() :]
    return "", where


def split_kind(where: str) -> tuple[str, str]:
    """Return the kind, and the path or name; the kind is written, or follows from the ending. Raises UsageError."""
    kind, place = _written_kind(where)
    if kind:
        return kind, place
    if where == "openmoji":
        return where, ""
    if kind := ENDINGS.get(Path(where).suffix.lower()):
        return kind, where
    if where.endswith("/") or os.path.isdir(local(where)):
        return "folder", where
    raise UsageError(
        f"{where} is neither a folder nor a file that ends in {', '.join(ENDINGS)}: name what it is, as {FORMS}"
    )


def _parse_value(field: str, kind: Any, value: str) -> Any:
    if typing.get_origin(kind) is tuple:
        return tuple(part for part in value.split("+") if part)
    if typing.get_origin(kind) is Mapping:
        parts = [part.partition(":") for part in value.split("+") if part]
        if wrong := [name for name, colon, _ in parts if not colon]:
            raise UsageError(f"{field}: a part is NAME:WHERE, as score:json:similarity, not {wrong[0]!r}")
        return {name: where for name, _, where in parts}
    if bool in (kind, *typing.get_args(kind)) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind is int and re.fullmatch(r"-?\d+", value):
        return int(value)
    return value  # a value that does not fit is a problem of the spec
