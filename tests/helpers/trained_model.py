"""Finished runs with random parameters, of models that public layouts can express."""

import contextlib
import dataclasses

import jax
import numpy as np
from PIL import Image
from tokenizers import processors

from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.tokenizers.subwords import ClipBpe, TokenizerFile
from jaxrep.data.tools.train_tokenizer import train
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Identity, Linear, LogitBias
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.runs.run_dir import RunDir
from jaxrep.step.train_state import TrainState
from tests.helpers import harness
from tests.helpers.harness import LOADED, RECIPE, drawn

SIZE = dict(width=8, depth=2, heads=2, mlp_ratio=1.5)
STEM = PatchStem(patch=4, bias=False)
CLIP = DualEncoder(
    towers={
        "image": ViT(**SIZE, stem=STEM, embed_norm=True, activation="quick_gelu", pixels=PixelNorm.clip()),
        "text": TextTransformer(**SIZE, activation="quick_gelu"),
    },
    dim=6,
)
SIGLIP = DualEncoder(
    towers={
        "image": ViT(**SIZE, stem=PatchStem(patch=4), pool="attention", activation="gelu_tanh"),
        "text": TextTransformer(**SIZE, causal=False, end="never", activation="gelu_tanh"),
    },
    heads={"image": Identity(), "text": Linear(features=8, bias=True)},
    dim=8,
    bias=LogitBias(),
)
VIT = DualEncoder(towers={"image": ViT(**SIZE, stem=PatchStem(patch=4)), "text": TextTransformer(**SIZE)}, dim=6)


def clip_tokenizer(folder):
    """Return CLIP's byte-pair encoding with two merges."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    return ClipBpe(vocabulary=str(folder / "merges.txt"), length=8, merges=2)


def learned_tokenizer(folder, template="[BOS] $A [EOS]"):
    """Return byte-level BPE whose words have higher ids than its end token, 2; ``template``: a text's tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = train(["a red fox", "small and large", "old and round"] * 3, "bpe", 300, True)
    special = [(token, learned.token_to_id(token)) for token in ("[BOS]", "[EOS]") if token in template]
    learned.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    learned.save(str(folder / "learned.json"))
    return TokenizerFile(path=str(folder / "learned.json"), entries=learned.get_vocab_size() + 3, length=8)


def pairs(folder):
    """Return a table of eight pictures with texts: a source whose class is jaxrep's own."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "gray.png")
    lines = [f"{folder / 'gray.png'},a red fox {row}" for row in range(8)]
    (folder / "pairs.csv").write_text("\n".join(["filepath,title", *lines]) + "\n")
    return Csv(path=str(folder / "pairs.csv"), separator=",", image_size=8)


def finished(folder, method, tokenizer=RECIPE.data.tokenizer, **changes):
    """Write a run of the tiny recipe with this method and other changes, by path; return its directory."""
    changes = {"method": method, "data.tokenizer": tokenizer, "log.embedding_metrics": False, **changes}
    recipe = RECIPE.replace(changes)
    setup, run = harness.set_up(recipe), RunDir(folder)
    params = jax.tree.map(lambda x: jax.numpy.asarray(0.3 * x), drawn(setup.shapes.arrays))
    state = TrainState(params, {}, setup.updater.init(params), {}, np.int32(0), np.int32(0), np.zeros(2, np.uint32))
    with contextlib.closing(run):
        run.claim(recipe, dataclasses.replace(LOADED, recipe=recipe))
    run.keep_tokenizer(run.tokenizer(recipe, lambda: setup.examples.column("text")))
    with contextlib.closing(Checkpoints(folder, recipe.checkpoint)) as checkpoints:
        checkpoints.save(1, state, {"position": 0})
        checkpoints.wait()
    return folder
