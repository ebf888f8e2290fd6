"""Specs as JSON and back, and the identity by which a run directory knows its recipe.

A spec is ``{"$type": "jaxrep.encoders.image.vit:ViT", field: value, …}``, a tuple is a list, a mapping an object, an infinite
float ``{"$float": "inf"}``. A type is accepted from jaxrep and from one experiment file (``experiment:Class``), from
nowhere else: reading a recipe runs no code but theirs.
"""

import dataclasses
import hashlib
import importlib
import json
import math
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeGuard

from jaxrep.errors import UsageError, hint
from jaxrep.spec import children, execution_fields, join_path, type_name

TYPE, FLOAT = "$type", "$float"
_MODULE = re.compile(r"jaxrep(\.[a-z][a-z0-9_]*)+")


def to_json(obj: Any) -> Any:
    """The tree as what ``json.dumps`` writes. Equal specs come back from it by ``from_json``."""
    return _encode(obj, "", for_identity=False)


def identity(obj: Any) -> Any:
    """As ``to_json`` without the fields made by ``execution``, at any depth, and with 1.0 written as 1."""
    return _encode(obj, "", for_identity=True)


def fingerprint(obj: Any) -> str:
    """Twelve hexadecimal digits of the identity: equal where two recipes are the same run."""
    text = json.dumps(identity(obj), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _encode(value: Any, path: str, *, for_identity: bool) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return _encode_float(value, path, for_identity)
    left_out = execution_fields(value) if for_identity else frozenset()
    inner = {
        name: _encode(child, join_path(path, name), for_identity=for_identity)
        for name, child in children(value).items()
        if name not in left_out
    }
    if isinstance(value, tuple):
        return list(inner.values())
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str) or key.startswith("$")]:
            raise UsageError(f"{path or 'mapping'}: the key {wrong[0]!r} cannot be written: keys are names without a $")
        return inner
    if _is_spec_class(type(value)):
        return {TYPE: type_name(type(value)), **inner}
    raise UsageError(
        f"{path or 'value'}: a {type(value).__name__} cannot be part of a recipe: it holds numbers, strings, None, "
        "tuples, mappings, and specs defined at the top of a module"
    )


def _encode_float(value: float, path: str, for_identity: bool) -> Any:
    if math.isnan(value):
        raise UsageError(f"{path or 'value'}: NaN cannot be part of a recipe, as it equals nothing")
    if math.isinf(value):
        return {FLOAT: str(value)}
    return int(value) if for_identity and value.is_integer() else value


def _is_spec_class(cls: Any) -> TypeGuard[type]:
    """Whether ``cls`` is a frozen dataclass at the top of its module, so that its name leads back to it."""
    return (
        isinstance(cls, type)
        and "__dataclass_params__" in vars(cls)
        and vars(cls)["__dataclass_params__"].frozen
        and "." not in cls.__qualname__
    )


def from_json(data: Any, experiment: ModuleType | None = None) -> Any:
    """The tree that ``to_json`` wrote. ``experiment``: the module that ``experiment:Class`` is looked up in.

    Raises ``UsageError`` on a type from elsewhere, and on fields that the type has not or that are missing.
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
    needed = [f.name for f in dataclasses.fields(cls) if _has_no_default(f)]
    if missing := [name for name in needed if name not in inner]:
        raise UsageError(f"{path or 'recipe'}: fields of {data[TYPE]} are missing: {', '.join(missing)}")
    return cls(**inner)


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _find(name: Any, path: str, experiment: ModuleType | None) -> type:
    """The class called ``name``, if it is a spec of jaxrep or of the experiment."""
    module_name, _, class_name = name.partition(":") if isinstance(name, str) else ("", "", "")
    if module_name == "experiment" and experiment is not None:
        names = vars(experiment)
    elif _MODULE.fullmatch(module_name):
        names = _names(module_name)
    else:
        raise UsageError(
            f"{path or 'recipe'}: the type {name!r} is refused: a recipe's types come from jaxrep"
            + (" (no experiment file is at hand)" if module_name == "experiment" else " and its own experiment file")
        )
    cls = names.get(class_name)
    if not _is_spec_class(cls) or cls.__module__ != names["__name__"]:
        raise UsageError(
            f"{path or 'recipe'}: {name!r} is not a spec that this version of jaxrep (or the file) defines"
        )
    return cls


def _names(module: str) -> dict[str, Any]:
    """What the module of jaxrep with that name defines; nothing where there is no such module."""
    try:
        return vars(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name):
            return {}
        raise
