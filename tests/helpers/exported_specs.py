"""What the conformance suites of parts share: the exported specs of a room, JSON round trip, and help texts."""

import dataclasses
import importlib
import inspect
import json
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from tyro._docstrings import get_field_docstring

from jaxrep.spec import problems
from jaxrep.spec_json import from_json, to_json

NAMES = ("data", "encoders", "evals", "mesh", "methods", "objectives", "optim", "recipe", "schedules", "views")
ROOMS = {name: importlib.import_module(f"jaxrep.{name}") for name in NAMES}
"""Rooms that export the parts of recipes."""


def assert_examples_are_complete(room: ModuleType, examples: Mapping[str, Any], but: Iterable[type] = ()) -> None:
    """Check that every concrete dataclass a room exports, ``but`` some, has an example of its class."""
    exports = {name: getattr(room, name) for name in room.__all__}
    specs = {
        name
        for name, cls in exports.items()
        if inspect.isclass(cls) and dataclasses.is_dataclass(cls) and not inspect.isabstract(cls) and cls not in but
    }
    classes = {type(example).__name__ for example in examples.values()}
    assert specs == classes, f"add an example of {sorted(specs ^ classes)} to the table of this suite, or remove it"


def assert_valid_with_json_and_help(example: Any) -> None:
    """Check that a spec has no problems, returns from JSON, and has a help text for every field."""
    assert not problems(example)
    assert from_json(json.loads(json.dumps(to_json(example)))) == example
    cls = type(example)
    missing = [field.name for field in dataclasses.fields(cls) if not get_field_docstring(cls, field.name, ())]
    assert not missing, f"write a docstring below {missing} of {cls.__name__}"
