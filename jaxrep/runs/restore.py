"""Restore a trained run as a model, without its data and its optimizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.flax import load_file

from jaxrep.errors import UsageError
from jaxrep.model import Model
from jaxrep.params import Arrays
from jaxrep.recipe import Recipe
from jaxrep.runs import layout
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.provenance import check_files
from jaxrep.runs.remote import fetch_run
from jaxrep.runs.run_dir import RunDir
from jaxrep.step.shapes import trace_shapes

Weights = Literal["auto", "raw", "ema"]


@dataclass(frozen=True)
class Restored:
    """Hold the recipe and the arrays of a checkpoint."""

    recipe: Recipe
    arrays: Arrays  # by path
    step: int
    meta: Mapping[str, Any]
    """Metadata of the checkpoint."""


def restore(run_dir: str | Path, weights: str = "auto", at: Literal["latest", "best"] = "latest") -> Restored:
    """Restore the arrays of a run's checkpoint.

    Args:
        run_dir: directory or URL of the run.
        weights: the last parameters (raw), their average (ema), or those that the run's evaluations use (auto).
        at: the latest checkpoint, or the best by the recipe's ``checkpoint.best``.

    Raises:
        UsageError: there is no run, no such checkpoint, or no such weights; or recipe.json was changed.
    """
    run = RunDir(fetch_run(run_dir))
    recipe = run.recipe()
    if (run.path / layout.EXPORTED).exists() and not (run.path / layout.CHECKPOINTS).exists():
        return _exported(run, recipe, weights, at)
    if at == "best" and not recipe.checkpoint.best:
        raise UsageError(f"the recipe of {run_dir} names no metric in checkpoint.best: take the latest checkpoint")
    checkpoints = Checkpoints(run.path, recipe.checkpoint)
    step = checkpoints.latest() if at == "latest" else checkpoints.best(recipe.checkpoint.best)
    if step is None:
        evaluated = f" that was evaluated by '{recipe.checkpoint.best}'" if at == "best" else ""
        raise UsageError(f"{run_dir} has no checkpoint{evaluated} yet: train it first")
    saved, meta = checkpoints.arrays(step), checkpoints.meta(step)
    checkpoints.close()
    check_files(meta, recipe, None, f"the checkpoint of step {step} in {run}")
    params, ema, non_trainable = (_below(saved, group) for group in ("params", "ema", "non_trainable"))
    if weights == "ema" and not ema:
        raise UsageError(f"{run_dir} keeps no average of its parameters: take weights 'raw'")
    chosen = {"raw": params, "ema": ema}.get(weights) or recipe.ema.weights(ema, params)
    return Restored(recipe, {**non_trainable, **chosen}, step, meta)


def load_run(
    run_dir: str | Path, weights: str = "auto", at: Literal["latest", "best"] = "latest"
) -> tuple[Model, Recipe]:
    """Return a run's model, ready to encode, and its recipe; the arguments are those of ``restore``."""
    folder = fetch_run(run_dir)
    restored = restore(folder, weights, at)
    traced = trace_shapes(restored.recipe)
    tokenizer = RunDir(folder).tokenizer(restored.recipe, tuple)
    check_files(restored.meta, restored.recipe, tokenizer, f"the checkpoint of step {restored.step} in {folder}")
    return Model(traced.structure, restored.arrays, traced.fields, tokenizer), restored.recipe


def _exported(run: RunDir, recipe: Recipe, weights: str, at: str) -> Restored:
    """Return the arrays of a run that was exported as safetensors, which are those of one checkpoint."""
    file = run.path / layout.EXPORTED
    if (weights, at) != ("auto", "latest"):
        raise UsageError(f"{run} is an exported run, which has one set of weights: take the default ones")
    try:
        arrays = load_file(file)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file} is not a complete safetensors file: {error}") from error
    expected = {path: leaf.shape for path, leaf in trace_shapes(recipe).arrays.items()}
    found = {path: array.shape for path, array in arrays.items()}
    if wrong := sorted(path for path in {**expected, **found} if expected.get(path) != found.get(path)):
        here, there = (shapes.get(wrong[0], "missing") for shapes in (found, expected))
        raise UsageError(f"'{wrong[0]}' is {here} in {file}, and {there} in the recipe beside it: export the run again")
    return Restored(recipe, arrays, 0, {})


def _below(saved: Arrays, group: str) -> Arrays:
    return {name.removeprefix(f"{group}/"): array for name, array in saved.items() if name.startswith(f"{group}/")}
