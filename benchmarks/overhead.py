"""Measure what the loop costs besides the computation: Python's time per step, a mesh of one device, compile times.

python -m benchmarks.overhead [--mesh] [--out FILE]
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding

from benchmarks.compiled import compile_recipe
from jaxrep import Recipe, encoders, methods
from jaxrep.experiment import load
from jaxrep.mesh import ROWS
from jaxrep.runs.run_dir import RunDir
from jaxrep.step.train_state import initial_state
from jaxrep.step.train_step import compile_step, make_step
from jaxrep.training.loop import train
from jaxrep.training.setup import make_loader, prepare


def small(width: int, depth: int, batch: int) -> Recipe:
    """Return the tiny CLIP with towers of this size."""
    towers = {
        "image": encoders.ViT(width=width, depth=depth, heads=2, pool="mean", stem=encoders.PatchStem(patch=16)),
        "text": encoders.TextTransformer(width=8, depth=1, heads=2),
    }
    return load("clip:tiny").recipe.replace(
        {
            "data.batch_size": batch,
            "log.embedding_metrics": False,
            "log.every_steps": 100,
        },
        method=methods.DualEncoder(towers=towers, dim=8),
        evals=(),
    )


def milliseconds_per_step(recipe: Recipe) -> float:
    """Measure the whole loop without waiting for data: the computation, and Python's own time."""
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder) / "run")
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    size = recipe.data.batch_size
    return min(1e3 * size / line["examples_per_second"] * (1 - line["data_wait"]) for line in lines)


def milliseconds_computing(recipe: Recipe, steps: int = 500) -> float:
    """Measure the compiled step on one batch, step after step."""
    with tempfile.TemporaryDirectory() as folder:
        setup, state, step = compile_recipe(recipe, Path(folder) / "run")
        with jax.set_mesh(setup.mesh):
            batch = {name: jax.device_put(x) for name, x in next(make_loader(setup, 0)).items()}
            state, _ = step(state, batch)
            jax.block_until_ready(state)
            start = time.perf_counter()
            for _ in range(steps):
                state, _ = step(state, batch)
            jax.block_until_ready(state)
    return 1e3 * (time.perf_counter() - start) / steps


def measure_mesh(recipe: Recipe, steps: int = 40) -> dict[str, float]:
    """Compare the step on a mesh of one device with the same step without a mesh; the two take turns."""
    with tempfile.TemporaryDirectory() as folder:
        setup, state, on_mesh = compile_recipe(recipe, Path(folder) / "run", jax.devices()[:1])
        batch = {name: jax.device_put(x, jax.devices()[0]) for name, x in next(make_loader(setup, 0)).items()}
        fresh = jax.jit(lambda: initial_state(recipe, setup.shapes, setup.updater))
        with jax.set_mesh(setup.mesh):
            rows = jax.device_put(batch, NamedSharding(setup.mesh, ROWS))
        plain = jax.jit(make_step(recipe, setup.shapes, setup.updater, setup.total_steps), donate_argnums=0)
        forms = {"mesh": (setup.mesh, on_mesh, rows), "plain": (None, plain, batch)}
        states, seconds = {"mesh": state, "plain": fresh()}, {name: [] for name in forms}
        for turn in range(2 * steps + 4):
            name = ("mesh", "plain")[(turn + turn // 2) % 2]  # both are first equally often
            mesh, step, x = forms[name]
            with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
                start = time.perf_counter()
                states[name], _ = jax.block_until_ready(step(states[name], x))
                seconds[name].append(time.perf_counter() - start)
    mesh, plain = (np.array(seconds[name][2:]) for name in forms)
    return {
        "milliseconds_on_a_mesh": 1e3 * float(np.median(mesh)),
        "milliseconds_without": 1e3 * float(np.median(plain)),
        "ratio_of_medians": float(np.median(mesh) / np.median(plain)),
        "median_of_ratios": float(np.median(mesh / plain)),
    }


def compile_seconds(depth: int) -> float:
    """Measure tracing, lowering and compilation of the step of a ViT of this depth."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = small(64, depth, 16)
        setup = prepare(recipe, RunDir(Path(folder) / "run"), None)
        start = time.perf_counter()
        compile_step(recipe, setup.shapes, setup.updater, setup.total_steps, setup.mesh)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", action="store_true", help="measure only what a mesh of one device costs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    measured = measure_mesh(load("clip:tiny").recipe.replace({"data.batch_size": 32})) if given.mesh else measure_loop()
    print(json.dumps(measured, indent=1))
    if given.out:
        given.out.write_text(json.dumps(measured))


def measure_loop() -> dict[str, float]:
    """Measure Python's time per step and the compile times."""
    compile_seconds(2)  # warms up
    shallow, deep = min(compile_seconds(4) for _ in range(2)), min(compile_seconds(24) for _ in range(2))
    recipe = small(8, 1, 8).replace(examples=8 * 1000)
    return {
        "milliseconds_per_step": (whole := milliseconds_per_step(recipe)),
        "milliseconds_computing": (computing := milliseconds_computing(recipe)),
        "milliseconds_of_overhead": whole - computing,
        "compile_seconds_depth_4": shallow,
        "compile_seconds_depth_24": deep,
        "compile_ratio": deep / shallow,
    }


if __name__ == "__main__":
    main()
