"""Upgrade recipes and run metadata that earlier versions of jaxrep wrote.

A ``recipe.json`` and the metadata of a checkpoint carry a format version. When a part or a field is renamed, add the
change to ``RENAMES`` under the version that it made, and raise ``FORMAT`` to that version. Files of earlier versions
are then read through the table; nothing else of an old format is kept in the code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxrep.errors import UsageError

FORMAT = 1
"""The format that this version writes."""
KEY = "$format"
"""Key of the format version in a JSON file."""


@dataclasses.dataclass(frozen=True)
class Renames:
    """Hold the renames of one format version."""

    types: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Old ``$type`` -> new ``$type``."""
    fields: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    """(new ``$type``, old field) -> new field; an empty string drops the field."""


RENAMES: Mapping[int, Renames] = {}
"""Format version -> what it renamed relative to the version before."""


def version_of(data: Mapping[str, Any], where: str, current: int = FORMAT) -> int:
    """Return the format version that a file states.

    Raises:
        UsageError: the file states none (jaxrep 0.1 wrote it), or a version that is newer than this jaxrep.
    """
    version = data.get(KEY)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UsageError(
            f"{where} states no format version, so jaxrep 0.1 or another program wrote it; jaxrep reads formats 1 to "
            f"{current}: train the recipe again, or read the file with the version that wrote it"
        )
    if version > current:
        raise UsageError(
            f"{where} has format version {version}, and this jaxrep reads formats 1 to {current}: install a newer one"
        )
    return version


def upgrade(data: Any, version: int, renames: Mapping[int, Renames] = RENAMES) -> Any:
    """Return JSON data of an earlier format version with the types and fields of today."""
    for later in sorted(each for each in renames if each > version):
        data = _renamed(data, renames[later])
    return data


def _renamed(data: Any, renames: Renames) -> Any:
    if isinstance(data, list):
        return [_renamed(each, renames) for each in data]
    if not isinstance(data, dict):
        return data
    kind = data.get("$type")
    kind = renames.types.get(kind, kind) if isinstance(kind, str) else kind
    new = {}
    for name, value in data.items():
        name = renames.fields.get((kind, name), name) if isinstance(kind, str) else name
        if name:
            new[name] = kind if name == "$type" else _renamed(value, renames)
    return new
