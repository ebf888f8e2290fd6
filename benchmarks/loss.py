"""Measure memory and time of the contrastive losses and their gradients against the batch, beside the plain losses.

    python -m benchmarks.loss --batches 4096 8192 16384 131072 --out loss.json --plot loss.png

If open_clip is installed (``peer.py``), its ClipLoss and SigLipLoss run in the same process, on as many threads.
Forms take turns, and the best of the repeats counts, so that other load on the machine disturbs all alike.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peer import open_clip
from jaxrep.losses import PairOptions, info_nce, pairwise_sigmoid, plain_info_nce, plain_pairwise_sigmoid

SCALE, BIAS = 20.0, -10.0
FORMS = {
    "info_nce": {"plain_info_nce": plain_info_nce, "info_nce": info_nce},
    "sigmoid": {"plain_sigmoid": plain_pairwise_sigmoid, "sigmoid": pairwise_sigmoid},
}
SCALARS = {"info_nce": (SCALE,), "sigmoid": (SCALE, BIAS)}
PEERS = {"info_nce": "ClipLoss", "sigmoid": "SigLipLoss"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--batches", type=int, nargs="+", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--block-size", type=int, help="rows of logits at a time (default: chosen)")
    parser.add_argument("--timed-to", type=int, default=16384, help="measure only the memory of larger batches")
    parser.add_argument("--plain-gib", type=float, default=8, help="do not run plain losses that need more")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="an image of memory and time (matplotlib, extra: bench)")
    args = parser.parse_args()
    rows = [row for loss in args.losses for batch in args.batches for row in measure(loss, batch, args)]
    machine = {"device": jax.devices()[0].device_kind, "threads": os.cpu_count(), "jax": jax.__version__}
    if args.out:
        args.out.write_text(json.dumps({**machine, "rows": rows}, indent=1))
    print_table(rows)
    if args.plot:
        plot(rows, args.plot)


def measure(loss: str, batch: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per form: temporary bytes and best time in seconds (None if it is unknown or not run)."""
    shape = jax.ShapeDtypeStruct((batch, args.width), jnp.float32)
    scalars = SCALARS[loss]
    timed = batch <= args.timed_to
    a, b = (normalized(seed, batch, args.width) for seed in (0, 1)) if timed else (shape, shape)
    memory: dict[str, int | None] = {}
    runs: dict[str, Callable[[], Any]] = {}
    for form, function in FORMS[loss].items():
        if form == loss:
            function = functools.partial(function, options=PairOptions(block_size=args.block_size))
        values = (a, b, *map(jnp.float32, scalars))
        step = jax.jit(jax.value_and_grad(function, range(len(values)))).lower(*values).compile()
        analysis = step.memory_analysis()
        memory[form] = analysis.temp_size_in_bytes if analysis else None
        if timed and (memory[form] or 0) <= args.plain_gib * 2**30:
            runs[form] = functools.partial(lambda step, values: jax.block_until_ready(step(*values)), step, values)
    losses = open_clip("loss")
    if losses and timed:
        name = PEERS[loss]
        memory[f"open_clip {name}"] = None
        runs[f"open_clip {name}"] = peer_run(getattr(losses, name)(), (np.asarray(a), np.asarray(b), *scalars))
    best = best_times(runs, args.repeats) if timed else {}
    return [
        {
            "loss": loss,
            "form": form,
            "batch": batch,
            "width": args.width,
            "temp_bytes": size,
            "seconds": best.get(form),
        }
        for form, size in memory.items()
    ]


def peer_run(loss: Callable[..., Any], values: tuple[Any, ...]) -> Callable[[], None]:
    """Return a function that computes value and gradient of a torch loss."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    leaves = [torch.tensor(value, requires_grad=True) for value in values]

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss(*leaves).backward()

    return run


def best_times(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def normalized(seed: int, batch: int, width: int) -> jax.Array:
    x = jax.random.normal(jax.random.key(seed), (batch, width))
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print memory and time of each form, and both as a share of the plain form's."""
    plain = {(row["loss"], row["batch"]): row for row in rows if row["form"].startswith("plain")}
    print(f"{'batch':>7}  {'form':<22} {'MiB':>9} {'of plain':>9} {'seconds':>8} {'of plain':>9}")
    for row in rows:
        base = plain[row["loss"], row["batch"]]
        cells = [
            number(row["temp_bytes"], 2**-20, ".1f"),
            share(row["temp_bytes"], base["temp_bytes"]),
            number(row["seconds"], 1, ".3f"),
            share(row["seconds"], base["seconds"]),
        ]
        print(f"{row['batch']:>7}  {row['form']:<22} {cells[0]:>9} {cells[1]:>9} {cells[2]:>8} {cells[3]:>9}")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot memory and time against the batch, both logarithmic, with a line per form."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    scales = {"temp_bytes": (2**-20, "temporaries, MiB"), "seconds": (1, "value and gradient, seconds")}
    for axes, (name, (factor, label)) in zip(figure.subplots(1, 2), scales.items(), strict=True):
        for form in dict.fromkeys(row["form"] for row in rows):
            points = [(row["batch"], row[name] * factor) for row in rows if row["form"] == form and row[name]]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=form)
        axes.set(xscale="log", yscale="log", xlabel="batch", ylabel=label)
        axes.legend()
    figure.savefig(path, dpi=150)


def number(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(value * factor, form)


def share(value: float | None, plain: float | None) -> str:
    return "-" if not value or not plain else f"{value / plain:.4f}"


if __name__ == "__main__":
    main()
