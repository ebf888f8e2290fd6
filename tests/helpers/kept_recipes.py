"""Write recipes and evaluations in a short form that a reviewer can read and a test can compare."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from jaxrep.recipe import Recipe
from jaxrep.spec import Absent, difference, type_name
from jaxrep.spec_json import default_values, fingerprint, to_json

WIDTH = 118


def compact_json(value: Any) -> Any:
    """Return the JSON of a spec with the fields that differ from their defaults.

    A recipe inside another one, from which a part starts, is its fingerprint.
    """
    if isinstance(value, tuple):
        return [compact_json(child) for child in value]
    if isinstance(value, Mapping):
        return {name: compact_json(child) for name, child in value.items()}
    if not dataclasses.is_dataclass(value):
        return to_json(value)
    defaults = default_values(type(value))
    held = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    changed = {name: each for name, each in held.items() if name not in defaults or not _same(each, defaults[name])}
    inner = {
        name: {"$fingerprint": fingerprint(child)} if isinstance(child, Recipe) else compact_json(child)
        for name, child in changed.items()
    }
    return {"$type": type_name(type(value)), **inner}


def _same(held: Any, default: Any) -> bool:
    return type(held) is type(default) and held == default


def kept_forms(presets: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of the presets of a file.

    A preset has its short form, or the paths in which it differs from an earlier preset, whichever is shortest.
    """
    forms: dict[str, Any] = {}
    for name, value in presets.items():
        changed = [{f"changes of {base}": _changes(presets[base], value)} for base in forms]
        forms[name] = min([compact_json(value), *changed], key=lines)
    return forms


def _changes(base: Any, value: Any) -> dict[str, Any]:
    changed = difference(base, value)
    return {each.path: "absent" if isinstance(each.b, Absent) else compact_json(each.b) for each in changed}


def lines(node: Any) -> int:
    return formatted(node).count("\n")


def formatted(node: Any, indent: int = 0) -> str:
    """Return JSON text in which a list or an object that fits on one line is on one line."""
    line = json.dumps(node, ensure_ascii=False)
    if not isinstance(node, list | dict) or not node or indent + len(line) <= WIDTH:
        return line
    inner = indent + 1
    if isinstance(node, list):
        parts, brackets = [formatted(child, inner) for child in node], "[]"
    else:
        parts, brackets = [f"{json.dumps(key)}: {formatted(child, inner)}" for key, child in node.items()], "{}"
    between = ",\n" + " " * inner
    return f"{brackets[0]}\n{' ' * inner}{between.join(parts)}\n{' ' * indent}{brackets[1]}"
