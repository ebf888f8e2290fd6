"""What is traced and compiled is shared between the tests of one session: each recipe's step compiles once."""

import json
from collections.abc import Callable
from typing import Any

import jax
import pytest

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.recipe import Recipe
from jaxrep.runs import restore
from jaxrep.spec_json import to_json
from jaxrep.training import setup


@pytest.fixture(scope="session", autouse=True)
def compiled_functions_are_shared(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        traced = shared(setup.trace_shapes, lambda recipe, fields: (text(recipe), repr(sorted(fields.items()))))
        patch.setattr(setup, "trace_shapes", traced)
        patch.setattr(restore, "trace_shapes", traced)
        step = shared(setup.Setup.compile, lambda s: (text(s.recipe), s.total_steps, tuple(s.mesh.devices.flat)))
        patch.setattr(setup.Setup, "compile", step)
        patch.setattr(OpenMoji, "open", shared(OpenMoji.open, lambda source: source))
        kept = {"jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled"))}
        kept["jax_persistent_cache_min_compile_time_secs"] = 0.1
        before = {name: getattr(jax.config, name) for name in kept}
        for name, value in kept.items():
            jax.config.update(name, value)
        yield
        for name, value in before.items():
            jax.config.update(name, value)


def shared(function: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, called once for each value of ``key`` of its arguments."""
    known: dict[Any, Any] = {}

    def call(*args: Any) -> Any:
        name = key(*args)
        if name not in known:
            known[name] = function(*args)
        return known[name]

    return call


def text(recipe: Recipe) -> str:
    return json.dumps(to_json(recipe))
