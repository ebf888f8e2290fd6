"""Cache compiled programs on disk or behind a URL, and compute initial states."""

import hashlib
import json
import os
import platform as machine
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from jaxrep import mesh
from jaxrep.disk_cache import cache_dir
from jaxrep.experiment import LoadedExperiment, experiment_of, recipe_json
from jaxrep.optim.optimizers import Updater
from jaxrep.recipe import Recipe
from jaxrep.step.programs import Programs
from jaxrep.step.shapes import Shapes
from jaxrep.step.train_state import TrainState, initial_state
from jaxrep.storage import is_remote

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "einops")
"""Packages that trace programs."""

FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
"""Variables that the compiler reads."""

STORES = ("gs://", "s3://", "az://", "file://")
"""URLs behind which JAX keeps its own cache (``etils.epath``)."""

QUICK = {"xla_backend_optimization_level": 0}
"""Options of the compiler for a program that runs once: on CPUs it compiles four times as fast."""


def enable_compilation_cache() -> str:
    """Keep compiled programs in jaxrep's cache, or where JAX was told, so that a resumed run starts at once.

    JAX is told by ``JAX_COMPILATION_CACHE_DIR``: a folder or a URL. A store that JAX does not know keeps only whole
    programs (``Programs``).

    Returns:
        The folder or the URL.
    """
    folder = str(cache_dir() / "compiled")
    place = jax.config.jax_compilation_cache_dir or folder  # pyright: ignore[reportAttributeAccessIssue]
    known = not is_remote(place) or place.startswith(STORES)
    jax.config.update("jax_compilation_cache_dir", place if known else folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    return place


def program_identity(recipe: Recipe, experiment: LoadedExperiment | None, devices: Sequence[Any], *more: object) -> str:
    """Return what decides the programs of a recipe, in one digest; empty if that cannot be known.

    It holds the recipe, jaxrep's source and the experiment's, versions, JAX's settings, and the devices. Parts that an
    experiment file defines may use any other module, so programs of such a recipe are not kept; nor are those of
    several processes.
    """
    if jax.process_count() > 1 or experiment_of(recipe) is not None:
        return ""
    client = devices[0].client
    facts = {
        "recipe": recipe_json(recipe),
        "sources": _digest_of_sources(Path(__file__).parents[1], *([experiment.path] if experiment else [])),
        "versions": [machine.python_version(), *map(metadata.version, PACKAGES)],
        "settings": {name: repr(value) for name, value in sorted(jax.config.values.items())},
        "platform": [client.platform, client.platform_version, machine.machine(), _processor()],
        "flags": {name: os.environ.get(name) for name in FLAGS},
        "devices": [(device.device_kind, device.id) for device in devices],
        "more": list(map(repr, more)),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _processor() -> str:
    """Return the features of this machine's processor: a program for more of them cannot run with fewer."""
    place = Path("/proc/cpuinfo")
    lines = place.read_text().splitlines() if place.exists() else []
    found = (line for line in lines if line.startswith(("flags", "Features")))
    return next(found, machine.processor())


def _digest_of_sources(*places: Path) -> str:
    """Return the digest of files, and of all Python files in folders."""
    files = (file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place]))
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def initialize(
    recipe: Recipe, shapes: Shapes, updater: Updater, like: TrainState, programs: Programs | None = None
) -> TrainState:
    """Return the state before the first step, with the shardings of ``like``."""
    places = jax.tree.map(lambda leaf: leaf.sharding, like)
    make = jax.jit(lambda: initial_state(recipe, shapes, updater), out_shardings=places)
    options = QUICK if mesh.platform() == "cpu" else {}
    program, _ = (programs or Programs()).get("initial state", make.trace, lambda _: None, options)
    return program()
