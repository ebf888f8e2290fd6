"""Find values in JSON by a path, as clip.similarity: the value of a name, or of names in nested objects."""

from collections.abc import Mapping
from typing import Any

from jaxrep.errors import hint

ABSENT = object()
"""Stands for a value that a document does not have."""


def find_value(document: Any, path: str) -> Any:
    """Return the value at ``path``, or ``ABSENT``. A name that has dots itself goes before nested objects."""
    if not isinstance(document, Mapping):
        return ABSENT
    if path in document:
        return document[path]
    for at in (at for at in range(len(path) - 1, 0, -1) if path[at] == "."):
        if path[:at] in document and (value := find_value(document[path[:at]], path[at + 1 :])) is not ABSENT:
            return value
    return ABSENT


def describe_absent(document: Any, path: str) -> str:
    """Return what a document has instead of ``path``, as the end of a sentence."""
    if not isinstance(document, Mapping):
        return f"it is a {type(document).__name__} and no object with names"
    names = list(document)
    for name, value in document.items():  # the names beside the one that is not there
        if path.startswith(f"{name}.") and isinstance(value, Mapping):
            names = [f"{name}.{inner}" for inner in value]
    return hint(path, [name[:40] for name in names[:30]])
