"""Prepare a recipe for a benchmark: its set-up, its initial state and its compiled step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxrep.recipe import Recipe
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.run_dir import RunDir
from jaxrep.step.train_state import TrainState, abstract_state
from jaxrep.step.train_step import CompiledStep, compile_step
from jaxrep.training.setup import Setup, prepare
from jaxrep.training.warm_start import restore_or_initialize


def compile_recipe(
    recipe: Recipe, folder: Path, devices: Sequence[Any] | None = None
) -> tuple[Setup, TrainState, CompiledStep]:
    """Return what the loop has before its first step. Parts do not start from other runs."""
    setup = prepare(recipe.replace(init={}), RunDir(folder), None, devices)
    with jax.set_mesh(setup.mesh):
        like = abstract_state(setup.recipe, setup.shapes, setup.updater, setup.mesh)
        state, _ = restore_or_initialize(setup, Checkpoints(folder, recipe.checkpoint), like, {})
        step = compile_step(setup.recipe, setup.shapes, setup.updater, setup.total_steps, setup.mesh, like)
    return setup, state, step
