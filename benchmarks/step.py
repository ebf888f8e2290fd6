"""Measure examples per second of a training step, beside open_clip's model of the same shape in torch.

    python -m benchmarks.step --out step.json --plot step.png  # --batch 512 --width 768 --depth 12 on a GPU

A step is forward, contrastive loss, backward and AdamW, without views, on one batch. jaxrep's step is the one that
training runs. On a CPU both compute in float32 on as many threads, and on large pages as ``jaxrep train`` does; on a
GPU in bfloat16, the peer compiled by ``torch.compile``. Both take turns in one process and the median step counts, so
that other load on the machine disturbs both alike.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks.compiled import compile_recipe
from benchmarks.peer import open_clip
from jaxrep import Data, Recipe, data, encoders, methods, objectives, optim, schedules
from jaxrep.batch import Field
from jaxrep.commands.memory import with_large_pages
from jaxrep.spec import spec
from jaxrep.step.flops import StepFlops
from jaxrep.training.setup import make_loader

PEER = "open_clip CLIP (torch)"
VOCABULARY, LENGTH, DIM = 8192, 32, 384
LEARNING_RATE, BETAS, EPS, DECAY = 5e-4, (0.9, 0.98), 1e-6, 0.2


@spec
class Noise(data.Source):
    """Draw pictures of noise, each with a text of 24 words."""

    image_size: int
    """Height and width of a picture, in pixels."""

    def fields(self) -> dict[str, Field]:
        return {"image": Field((self.image_size, self.image_size, 3), "uint8"), "text": Field((), "str")}

    def open(self) -> data.Examples:
        rng = np.random.default_rng(0)
        pictures = rng.integers(0, 256, (512, self.image_size, self.image_size, 3), dtype=np.uint8)
        words = rng.integers(0, VOCABULARY, (512, 24))
        return data.Columns({"image": pictures, "text": [" ".join(f"w{word}" for word in row) for row in words]})


def recipe_of(size: argparse.Namespace) -> Recipe:
    """Return a CLIP of this size, with the details of open_clip's."""
    heads = size.width // 64
    return Recipe(
        data=Data(
            train=Noise(image_size=size.image_size),
            batch_size=size.batch,
            tokenizer=data.Words(length=LENGTH, max_words=VOCABULARY),
        ),
        method=methods.DualEncoder(
            towers={
                "image": encoders.ViT(
                    width=size.width,
                    depth=size.depth,
                    heads=heads,
                    embed_norm=True,
                    stem=encoders.PatchStem(patch=16, bias=False),
                ),
                "text": encoders.TextTransformer(width=size.width, depth=size.depth, heads=heads),
            },
            dim=DIM,
        ),
        objective={"contrastive": objectives.Contrastive("image", "text")},
        optimizer=optim.AdamW(b1=BETAS[0], b2=BETAS[1], eps=EPS, weight_decay=schedules.Constant(value=DECAY)),
        schedule=schedules.WarmupCosine(peak=LEARNING_RATE, warmup_steps=10),
        examples=1000 * size.batch,
    )


def jaxrep_step(recipe: Recipe, folder: Path) -> tuple[Callable[[], Any], dict[str, np.ndarray], int, StepFlops]:
    """Return a function that makes one step and waits for it, its batch, the number of parameters, and the FLOPs."""
    setup, state, step = compile_recipe(recipe, folder)
    host = next(make_loader(setup, 0))
    with jax.set_mesh(setup.mesh):
        batch = jax.device_put(host)

    def run() -> None:
        nonlocal state
        with jax.set_mesh(setup.mesh):
            state, _ = step(state, batch)
            jax.block_until_ready(state)

    parameters = sum(int(np.prod(leaf.shape)) for leaf in state.params.values())
    return run, host, parameters, step.flops_of(batch)


def torch_step(recipe: Recipe, batch: dict[str, np.ndarray], gpu: bool) -> Callable[[], Any] | None:
    """Return the step of open_clip's model, loss and usual optimizer; None if it is not installed."""
    models, losses = open_clip("model"), open_clip("loss")
    if models is None:
        return None
    import torch

    image, text = (recipe.method.towers[name] for name in ("image", "text"))  # pyright: ignore
    torch.set_num_threads(os.cpu_count() or 1)
    device = "cuda" if gpu else "cpu"
    model = models.CLIP(
        DIM,
        models.CLIPVisionCfg(layers=image.depth, width=image.width, patch_size=16, image_size=batch["image"].shape[1]),
        models.CLIPTextCfg(
            context_length=LENGTH,
            vocab_size=recipe.data.tokenizer.vocab_size,
            width=text.width,
            heads=text.heads,
            layers=text.depth,
            pool_type="last",
        ),
    ).to(device)
    loss = losses.ClipLoss()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, fused=True
    )
    forward = torch.compile(model) if gpu else model
    pixels = torch.tensor(batch["image"].transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32, device=device)
    tokens = torch.tensor(batch["text"], dtype=torch.long, device=device)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=gpu):
            value = loss(*forward(pixels, tokens))
        value.backward()
        optimizer.step()
        value.item()

    return run


def seconds(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Time single steps: the forms take turns of three steps each, of which the first only warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            for step in range(3):
                start = time.perf_counter()
                run()
                if turn and step:
                    times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    with_large_pages()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="an image of the examples per second (matplotlib, extra: bench)")
    given = parser.parse_args()
    recipe, gpu = recipe_of(given), jax.default_backend() == "gpu"
    with tempfile.TemporaryDirectory() as folder:
        step, batch, parameters, flops = jaxrep_step(recipe, Path(folder) / "run")
        peer = torch_step(recipe, batch, gpu)
        times = seconds({"jaxrep": step, **({PEER: peer} if peer else {})}, given.rounds)
    measured = {
        "device": (kind := jax.devices()[0].device_kind),
        "threads": os.cpu_count(),
        "dtype": "bfloat16" if gpu else "float32",
        "parameters": parameters,
        "batch": given.batch,
        "examples_per_second": {name: given.batch / median(values) for name, values in times.items()},
        "seconds": times,
    }
    if peer:
        measured["ratio"] = median(times[PEER]) / median(times["jaxrep"])
    mfu = {name: flops.utilization(median(values), 1, kind).get("mfu") for name, values in times.items()}
    measured["mfu"] = {name: value for name, value in mfu.items() if value}
    if given.out:
        given.out.write_text(json.dumps(measured, indent=1))
    print(json.dumps({name: value for name, value in measured.items() if name != "seconds"}, indent=1))
    if given.plot:
        plot(measured, given.plot)


def plot(measured: dict[str, Any], path: Path) -> None:
    """Plot a bar per form, with its number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    rates = measured["examples_per_second"]
    axes.bar_label(axes.bar(list(rates), list(rates.values())), fmt="%.1f")
    axes.set(
        ylabel="examples per second", title=f"{measured['parameters'] / 1e6:.0f} M parameters, {measured['dtype']}"
    )
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
