"""How a source of data is named on a command line: ``KIND:WHERE,FIELD=VALUE,…``

::

    tar:gs://bucket/pairs/{00000..41455}.tar,text=caption,image=jpg+png
    parquet:table-*.parquet,text=caption        arrayrecord:train-*.array_record,text=caption
    csv:pairs.csv,image=path,text=title         folder:pictures         lines:names.txt
    tfds:coco_captions/train[:10%],text=        openmoji                openmoji:test,image_size=32

The kind may be left out where the path's ending tells it. Fields are those of the source's spec; the values of a tuple
are joined by ``+``.
"""

import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.source import Source
from jaxrep.data.sources.files import Csv, ImageFolder, TextLines
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.sources.patterns import local
from jaxrep.data.sources.records import ArrayRecords
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.sources.tfds import Tfds
from jaxrep.errors import UsageError, hint
from jaxrep.spec import problems

KINDS: dict[str, tuple[type[Source], str]] = {
    "tar": (TarShards, "shards"),
    "arrayrecord": (ArrayRecords, "shards"),
    "parquet": (ParquetTable, "files"),
    "tfds": (Tfds, "name"),
    "folder": (ImageFolder, "path"),
    "csv": (Csv, "path"),
    "lines": (TextLines, "path"),
    "openmoji": (OpenMoji, "part"),
}
"""Kind -> what it declares, and the field that says where or which."""

ENDINGS = {
    ".tar": "tar",
    ".parquet": "parquet",
    ".array_record": "arrayrecord",
    ".arrayrecord": "arrayrecord",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "lines",
}

_KIND = re.compile(r"([a-z]+):(?!//)")
_FIELDS = re.compile(r"(?:,[a-z_]+=[^,=]*)+$")

FORMS = "tar:PATTERN, parquet:PATH, arrayrecord:PATTERN, tfds:NAME/SPLIT, folder:PATH, csv:PATH, lines:PATH or openmoji"


def parse_source(text: str, defaults: Mapping[str, Any] = types.MappingProxyType({})) -> Source:
    """The source that ``text`` names. ``defaults``: values of fields, where the source has them and the text is silent.

    Raises UsageError: an unknown kind or field, a value that does not fit. Nothing is opened.
    """
    cls, fields = read(text)
    names = typing.get_type_hints(cls)
    source = cls(**{name: value for name, value in defaults.items() if name in names} | fields)
    if wrong := problems(source):
        raise UsageError(f"{text}: {wrong[0]}")
    return source


def read(text: str) -> tuple[type[Source], dict[str, Any]]:
    """The class that ``text`` names, and the values of its fields that it gives. Raises UsageError."""
    options = _FIELDS.search(text)
    where = text[: options.start()] if options else text
    kind, place = split(where)
    if kind not in KINDS:
        raise UsageError(f"{text}: there is no source of kind '{kind}'; {hint(kind, KINDS)}")
    cls, field = KINDS[kind]
    given = dict(option.split("=", 1) for option in options[0][1:].split(",")) if options else {}
    fields = {name: _value(cls, name, value, text) for name, value in given.items()}
    if kind == "tfds":
        name, slash, fields["split"] = place.rpartition("/")
        if not slash:
            raise UsageError(f"{text}: a data set is named with its split, as tfds:{place}/train")
        place = name
    if kind == "csv" and where.lower().endswith(".tsv"):
        fields.setdefault("separator", "\t")
    return cls, ({field: place} if place else {}) | fields


def split(where: str) -> tuple[str, str]:
    """Kind and path or name: as they are written, or by the path's ending. Raises UsageError."""
    if found := _KIND.match(where):
        return found[1], where[found.end() :]
    if where == "openmoji":
        return where, ""
    if kind := ENDINGS.get(Path(where).suffix.lower()):
        return kind, where
    if where.endswith("/") or Path(local(where)).is_dir():
        return "folder", where
    raise UsageError(
        f"{where} is neither a folder nor a file that ends in {', '.join(ENDINGS)}: name what it is, as {FORMS}"
    )


def _value(cls: type[Source], name: str, value: str, text: str) -> Any:
    hints = typing.get_type_hints(cls)
    names = [name for name, kind in hints.items() if typing.get_origin(kind) is not typing.ClassVar]
    if name not in names:
        raise UsageError(f"{text}: {cls.__name__} has no field '{name}'; {hint(name, names)}")
    kind = hints[name]
    if typing.get_origin(kind) is tuple:
        return tuple(part for part in value.split("+") if part)
    if kind is bool and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if kind is int and re.fullmatch(r"-?\d+", value):
        return int(value)
    return value  # if it does not fit, the spec says so
