"""The defaults of all parts are kept: recipes and runs leave them out of their fingerprints.

A changed default changes every recipe that relies on it. Say so in CHANGELOG.md, measure the effects that it touches
again (python -m results NAME), and keep it by pytest --keep-recipes. A new field is kept in the same way.
"""

import dataclasses
import inspect
import json
from pathlib import Path

import pytest

from jaxrep.spec_json import default_values
from tests.helpers.exported_specs import ROOMS
from tests.helpers.kept_recipes import compact_json, formatted

KEPT = Path(__file__).parent / "defaults.json"


def all_defaults() -> dict[str, dict[str, object]]:
    parts = {f"{room}:{name}": getattr(module, name) for room, module in ROOMS.items() for name in module.__all__}
    specs = {name: cls for name, cls in parts.items() if inspect.isclass(cls) and dataclasses.is_dataclass(cls)}
    return {
        name: {field: compact_json(value) for field, value in default_values(cls).items()}
        for name, cls in sorted(specs.items())
        if not inspect.isabstract(cls)
    }


def test_defaults_are_as_kept(request: pytest.FixtureRequest):
    now = all_defaults()
    if request.config.getoption("--keep-recipes"):
        KEPT.write_text(formatted(now) + "\n")
    assert json.loads(KEPT.read_text()) == json.loads(json.dumps(now))
