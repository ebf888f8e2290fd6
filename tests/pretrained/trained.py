"""Runs to export: finished in no step, their parameters drawn; of models that public layouts can express."""

import contextlib
import dataclasses

import harness
import jax
import numpy as np
from harness import LOADED, RECIPE, drawn

from jaxrep.data.texts.subwords import ClipBpe
from jaxrep.encoders.stem import PatchStem, PixelNorm
from jaxrep.encoders.text import TextTransformer
from jaxrep.encoders.vit import ViT
from jaxrep.methods.dual import Dual
from jaxrep.methods.heads import Identity, Linear, LogitBias
from jaxrep.train.checkpoint import Checkpoints
from jaxrep.train.run import Run
from jaxrep.train.state import TrainState

SIZE = dict(width=8, depth=2, heads=2, mlp_ratio=1.5)
STEM = PatchStem(patch=4, bias=False)
CLIP = Dual(
    towers={
        "image": ViT(**SIZE, stem=STEM, embed_norm=True, activation="quick_gelu", pixels=PixelNorm.clip()),
        "text": TextTransformer(**SIZE, activation="quick_gelu"),
    },
    dim=6,
)
SIGLIP = Dual(
    towers={
        "image": ViT(**SIZE, stem=PatchStem(patch=4), pool="attention", activation="gelu_tanh"),
        "text": TextTransformer(**SIZE, causal=False, end="never", activation="gelu_tanh"),
    },
    heads={"image": Identity(), "text": Linear(features=8, bias=True)},
    dim=8,
    bias=LogitBias(),
)
VIT = Dual(towers={"image": ViT(**SIZE, stem=PatchStem(patch=4)), "text": TextTransformer(**SIZE)}, dim=6)


def clip_tokenizer(folder):
    """CLIP's byte-pair encoding with two merges."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    return ClipBpe(vocabulary=str(folder / "merges.txt"), length=8, merges=2)


def finished(folder, method, tokenizer=RECIPE.data.tokenizer):
    """Writes a run of the tiny recipe with this method; its directory."""
    recipe = RECIPE.replace({"method": method, "data.tokenizer": tokenizer, "log.health": False})
    setup, run = harness.set_up(recipe), Run(folder)
    params = jax.tree.map(lambda x: jax.numpy.asarray(0.3 * x), drawn(setup.shapes.arrays))
    state = TrainState(params, {}, setup.updater.init(params), {}, np.int32(0), np.int32(0), np.zeros(2, np.uint32))
    with contextlib.closing(run):
        run.claim(recipe, dataclasses.replace(LOADED, recipe=recipe), lambda text: None)
    run.tokenizer(recipe, lambda: setup.examples.column("text"))
    with contextlib.closing(Checkpoints(folder, recipe.checkpoint)) as checkpoints:
        checkpoints.save(1, state, {"position": 0})
        checkpoints.wait()
    return folder
