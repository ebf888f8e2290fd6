"""What the loop costs beside the computation: Python's time a step, a mesh of one device, compile time against depth.

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

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.experiment import load
from jaxrep.mesh import ROWS
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.recipe import Recipe
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.run_dir import RunDir
from jaxrep.step.train_state import initial_state
from jaxrep.step.train_step import make_step
from jaxrep.training.loop import train
from jaxrep.training.setup import prepare


def small(width: int, depth: int, batch: int) -> Recipe:
    """The tiny CLIP with towers of this size."""
    towers = {
        "image": ViT(width=width, depth=depth, heads=2, pool="mean", stem=PatchStem(patch=16)),
        "text": TextTransformer(width=8, depth=1, heads=2),
    }
    return load("experiments/clip.py:tiny").recipe.replace(
        {
            "data.batch_size": batch,
            "data.train": OpenMoji(image_size=48),
            "log.embedding_metrics": False,
            "log.every_steps": 100,
        },
        method=DualEncoder(towers=towers, dim=8),
        evals=(),
    )


def milliseconds_a_step(recipe: Recipe) -> float:
    """Of the whole loop, waiting for data left out: the computation, and what Python takes beside it."""
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder) / "run", say=lambda _: None)
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    size = recipe.data.batch_size
    return min(1e3 * size / line["examples_per_second"] * (1 - line["data_wait"]) for line in lines)


def milliseconds_computing(recipe: Recipe, steps: int = 500) -> float:
    """Of the compiled step alone, one after the other on one batch."""
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(recipe, RunDir(Path(folder) / "run"), None, lambda _: None)
        with jax.set_mesh(setup.mesh):
            state, _ = setup.start(Checkpoints(Path(folder) / "run", recipe.checkpoint))
            step = setup.compile()
            batch = {name: jax.device_put(x) for name, x in next(setup.loader(0)).items()}
            state, _ = step(state, batch)
            jax.block_until_ready(state)
            start = time.perf_counter()
            for _ in range(steps):
                state, _ = step(state, batch)
            jax.block_until_ready(state)
    return 1e3 * (time.perf_counter() - start) / steps


def of_a_mesh(recipe: Recipe, steps: int = 40) -> dict[str, float]:
    """The step on a mesh of one device against the same step without a mesh; the two take turns."""
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(recipe, RunDir(Path(folder) / "run"), None, lambda _: None, jax.devices()[:1])
        batch = {name: jax.device_put(x, jax.devices()[0]) for name, x in next(setup.loader(0)).items()}
        fresh = jax.jit(lambda: initial_state(recipe, setup.shapes, setup.updater))
        with jax.set_mesh(setup.mesh):
            places = jax.tree.map(lambda leaf: leaf.sharding, setup.abstract)
            on_mesh, state = setup.compile(), jax.device_put(fresh(), places)
            rows = jax.device_put(batch, NamedSharding(setup.mesh, ROWS))
        plain = jax.jit(make_step(recipe, setup.shapes, setup.updater, setup.total_steps), donate_argnums=0)
        forms = {"mesh": (setup.mesh, on_mesh, rows), "plain": (None, plain, batch)}
        states, seconds = {"mesh": state, "plain": fresh()}, {name: [] for name in forms}
        for turn in range(2 * steps + 4):
            name = ("mesh", "plain")[(turn + turn // 2) % 2]  # each is first as often as the other
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
    """Tracing, lowering and compiling the step of a ViT of this depth."""
    with tempfile.TemporaryDirectory() as folder:
        setup = prepare(small(64, depth, 16), RunDir(Path(folder) / "run"), None, lambda _: None)
        with jax.set_mesh(setup.mesh):
            start = time.perf_counter()
            setup.compile()
            return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mesh", action="store_true", help="only what a mesh of one device costs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = (
        of_a_mesh(load("experiments/clip.py:tiny").recipe.replace({"data.batch_size": 32}))
        if given.mesh
        else of_the_loop()
    )
    print(json.dumps(found, indent=1))
    if given.out:
        given.out.write_text(json.dumps(found))


def of_the_loop() -> dict[str, float]:
    """Python's time a step and the compile times."""
    compile_seconds(2)  # the first one pays for what all share
    shallow, deep = min(compile_seconds(4) for _ in range(2)), min(compile_seconds(24) for _ in range(2))
    recipe = small(8, 1, 8).replace(examples=8 * 1000)
    return {
        "milliseconds_a_step": (whole := milliseconds_a_step(recipe)),
        "milliseconds_computing": (computing := milliseconds_computing(recipe)),
        "milliseconds_of_overhead": whole - computing,
        "compile_seconds_depth_4": shallow,
        "compile_seconds_depth_24": deep,
        "compile_ratio": deep / shallow,
    }


if __name__ == "__main__":
    main()
