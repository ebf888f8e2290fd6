"""Write specs as JSON and read them back, and identify the run that a recipe describes.

A spec is ``{"$type": "jaxrep.encoders:ViT", field: value, ...}``, a tuple is a list, a mapping an object, an infinite
float ``{"$float": "inf"}``. The type of a part is its room and its name: a room of jaxrep exports it, or one experiment
file defines it (``experiment:Class``). No other type is accepted, so reading a recipe runs no other code.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from jaxrep.errors import UsageError, hint, without_secrets
from jaxrep.spec import children, execution_fields, join_path, short_repr, type_name

TYPE, FLOAT = "$type", "$float"
_ROOM = re.compile(r"jaxrep\.[a-z][a-z0-9_]*")


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file that holds a value of type ``kind``. Raises UsageError: it does not."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no text, or too deep
        raise UsageError(f"{path} is damaged, not JSON: {error}") from error
    if not isinstance(value, kind):
        raise UsageError(f"{path} is damaged: it holds a {type(value).__name__}, expected a {kind.__name__}")
    return value


def to_json(obj: Any) -> Any:
    """Return the tree as values for ``json.dumps``; ``from_json`` returns an equal tree."""
    return _encode(obj, "", for_identity=False)


def redacted(values: Any) -> Any:
    """Return JSON values without the secrets in their URLs, and without tokens."""
    return json.loads(without_secrets(json.dumps(values)))


def identity(obj: Any) -> Any:
    """Return ``to_json`` without execution fields, at any depth, and with 1.0 written as 1."""
    return _encode(obj, "", for_identity=True)


def fingerprint(obj: Any) -> str:
    """Return twelve hexadecimal digits of the identity: equal if two recipes are the same run.

    Fields at their defaults are left out, so that a part with a new field keeps its fingerprint.
    """
    text = json.dumps(_encode(obj, "", for_identity=True, defaults=False), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def default_values(cls: type) -> dict[str, Any]:
    """Return the defaults of a spec's fields; fields without a default are left out."""
    defaults = {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(cls)
    }
    return {name: value for name, value in defaults.items() if value is not dataclasses.MISSING}


def _encode(value: Any, path: str, *, for_identity: bool, defaults: bool = True) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _encode_float(value, path, for_identity)
    encode = functools.partial(_encode, for_identity=for_identity, defaults=defaults)
    left_out = execution_fields(value) if for_identity else frozenset()
    inner = {
        name: encode(child, join_path(path, name)) for name, child in children(value).items() if name not in left_out
    }
    if isinstance(value, tuple):
        return list(inner.values())
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str) or key.startswith("$")]:
            raise UsageError(f"{path or 'mapping'}: the key {wrong[0]!r} cannot be written: keys are names without a $")
        return inner
    if _is_spec_class(type(value)):
        if not defaults:
            usual = {name: json.dumps(encode(default, path)) for name, default in default_values(type(value)).items()}
            inner = {name: child for name, child in inner.items() if json.dumps(child) != usual.get(name)}
        return {TYPE: _checked_type_name(type(value), path), **inner}
    if isinstance(value, list):
        raise UsageError(f"{path or 'value'}: a list cannot be part of a recipe: write {short_repr(tuple(value))}")
    raise UsageError(
        f"{path or 'value'}: a {type(value).__name__} cannot be part of a recipe: it holds numbers, strings, None, "
        "tuples, mappings, and specs defined at the top of a module"
    )


@functools.cache
def _exported(cls: type) -> bool:
    room, _, name = type_name(cls).partition(":")
    if room == "experiment":
        return True
    return name in (exports(room) or ()) and getattr(importlib.import_module(room), name) is cls


def _checked_type_name(cls: type, path: str) -> str:
    if not _exported(cls):
        room = type_name(cls).partition(":")[0]
        raise UsageError(
            f"{path or 'value'}: a {cls.__name__} cannot be part of a recipe: {room} does not export it; add it to "
            "the room's exports"
        )
    return type_name(cls)


def _encode_float(value: float, path: str, for_identity: bool) -> Any:
    if math.isnan(value):
        raise UsageError(f"{path or 'value'}: NaN cannot be part of a recipe, as it equals nothing")
    if math.isinf(value):
        return {FLOAT: str(value)}
    return int(value) if for_identity and value.is_integer() else value


def _is_spec_class(cls: Any) -> TypeGuard[type]:
    """Return whether ``cls`` is a frozen dataclass at the top level of its module."""
    return (
        isinstance(cls, type)
        and "__dataclass_params__" in vars(cls)
        and vars(cls)["__dataclass_params__"].frozen
        and "." not in cls.__qualname__
    )


def from_json(data: Any, experiment: ModuleType | None = None) -> Any:
    """Return the tree that ``to_json`` wrote.

    Args:
        data: JSON values.
        experiment: the module in which ``experiment:Class`` is looked up.

    Raises:
        UsageError: a type from elsewhere, or a field that the type does not have or that is missing.
    """
    return _decode(data, "", experiment)


def _decode(data: Any, path: str, experiment: ModuleType | None) -> Any:
    if isinstance(data, list):
        return tuple(_decode(child, join_path(path, str(i)), experiment) for i, child in enumerate(data))
    if not isinstance(data, dict):
        return data
    if FLOAT in data:
        if data not in ({FLOAT: "inf"}, {FLOAT: "-inf"}):
            raise UsageError(f"{path or 'value'}: {json.dumps(data)} is not a number that a recipe can hold")
        return float(data[FLOAT])
    inner = {k: _decode(v, join_path(path, k), experiment) for k, v in data.items() if k != TYPE}
    if TYPE not in data:
        return inner
    cls = _find(data[TYPE], path, experiment)
    fields = [f.name for f in dataclasses.fields(cls)]
    if unknown := [name for name in inner if name not in fields]:
        raise UsageError(f"{join_path(path, unknown[0])}: {data[TYPE]} has no such field; {hint(unknown[0], fields)}")
    # A field that came with a later version has its default in what an earlier one wrote.
    needed = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in inner]:
        raise UsageError(f"{path or 'recipe'}: fields of {data[TYPE]} are missing: {', '.join(missing)}")
    return cls(**inner)


def _find(name: Any, path: str, experiment: ModuleType | None) -> type:
    """Return the spec called ``name``: an export of a room of jaxrep, or a class of the experiment."""
    room, _, class_name = name.partition(":") if isinstance(name, str) else ("", "", "")
    where = path or "recipe"
    if room == "experiment" and experiment is not None:
        cls = vars(experiment).get(class_name)
        if not _is_spec_class(cls) or cls.__module__ != experiment.__name__:
            raise UsageError(f"{where}: the experiment file defines no spec named {class_name!r}")
        return cls
    if not _ROOM.fullmatch(room):
        raise UsageError(
            f"{where}: the type {name!r} is refused: a recipe's types come from jaxrep"
            + (" (no experiment file is at hand)" if room == "experiment" else " and its own experiment file")
        )
    known = exports(room)
    if known is None:
        raise UsageError(f"{where}: the type {name!r} names the room {room!r}, which this version of jaxrep has not")
    cls = getattr(importlib.import_module(room), class_name) if class_name in known else None
    if not _is_spec_class(cls):
        raise UsageError(f"{where}: {room} exports no spec named {class_name!r}; {hint(class_name, known)}")
    return cls


def exports(room: str) -> tuple[str, ...] | None:
    """Return the names that a room of jaxrep exports; None where there is no such room.

    A room is a package or a module right below ``jaxrep``. Its ``__all__`` lists its exports.
    """
    try:
        return tuple(getattr(importlib.import_module(room), "__all__", ()))
    except ModuleNotFoundError as error:
        if error.name is not None and room.startswith(error.name):
            return None
        raise
