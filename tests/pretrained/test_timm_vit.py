"""Vision transformers in timm's layout, which MAE's released code has: features of a random checkpoint, and starts.

The oracle is the forward pass of timm's VisionTransformer and of MAE's ``forward_encoder``, in float64 NumPy.
"""

import dataclasses
import json
import math
from typing import Any

import jax
import numpy as np
import pytest

import jaxrep
from experiments.vision import mae
from jaxrep.batch import StepContext
from jaxrep.encoders import PatchStem, TokenDecoder
from jaxrep.errors import UsageError
from jaxrep.pretrained import load
from jaxrep.pretrained.partial_load import partial_load
from jaxrep.recipe import Pretrained
from jaxrep.step.shapes import trace_shapes
from tests.encoders.decoders.test_token_decoder import mae_positions
from tests.helpers.harness import drawn

SIDE, PATCH, D, DEPTH, HEADS, GRID = 16, 4, 8, 2, 2, 4
ARGS = dict(img_size=SIDE, patch_size=PATCH, embed_dim=D, depth=DEPTH, num_heads=HEADS)
CONFIG = dict(
    architecture="vit_base_patch16_224",
    num_classes=0,
    global_pool="token",
    model_args=ARGS,
    pretrained_cfg=dict(input_size=[3, SIDE, SIDE], crop_pct=1.0),
)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((3, SIDE, SIDE, 3), np.float32)


def tensors(last: str = "norm") -> dict[str, np.ndarray]:
    """Return random tensors by the names of timm and of MAE's encoder, with the sines of MAE."""

    def linear(name: str, outputs: int, inputs: int) -> dict[str, np.ndarray]:
        kernel = RANDOM.normal(size=(outputs, inputs)) * inputs**-0.5
        return {f"{name}.weight": kernel, f"{name}.bias": 0.1 * RANDOM.normal(size=outputs)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": 1 + 0.1 * RANDOM.normal(size=D), f"{name}.bias": 0.1 * RANDOM.normal(size=D)}

    found = {"cls_token": RANDOM.normal(size=(1, 1, D)), **norm(last)}
    found["pos_embed"] = np.concatenate([np.zeros((1, D)), mae_positions(D, GRID, GRID)])[None]
    found["patch_embed.proj.weight"] = 0.2 * RANDOM.normal(size=(D, 3, PATCH, PATCH))
    found["patch_embed.proj.bias"] = RANDOM.normal(size=D)
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        found |= {**norm(f"{block}.norm1"), **norm(f"{block}.norm2")}
        found |= {**linear(f"{block}.attn.qkv", 3 * D, D), **linear(f"{block}.attn.proj", D, D)}
        found |= {**linear(f"{block}.mlp.fc1", 4 * D, D), **linear(f"{block}.mlp.fc2", D, 4 * D)}
    return {name: value.astype(np.float32) for name, value in found.items()}


def written(path, values, **changes) -> str:
    from safetensors.numpy import save_file

    path.mkdir(parents=True, exist_ok=True)
    save_file(values, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return str(path)


def forward(values, images, kept=None, last="norm"):
    """Return all tokens [B,1+n,D] after the last norm, in float64; ``kept`` [B,n]: the patches that are read."""
    w = {name: value.astype(np.float64) for name, value in values.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"] if name else x

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    mean, std = np.array(mae.IMAGENET.mean), np.array(mae.IMAGENET.std)
    x = ((images.astype(np.float64) - mean) / std).reshape(-1, GRID, PATCH, GRID, PATCH, 3)
    x = np.einsum("bipjqc,dcpq->bijd", x, w["patch_embed.proj.weight"]) + w["patch_embed.proj.bias"]
    x = x.reshape(len(images), -1, D) + w["pos_embed"][:, 1:]
    x = x if kept is None else np.take_along_axis(x, kept[..., None], axis=1)
    token = w["cls_token"] + w["pos_embed"][:, :1]
    x = np.concatenate([np.broadcast_to(token, (len(x), 1, D)), x], axis=1)
    for block in (f"blocks.{i}" for i in range(DEPTH)):
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(*x.shape[:2], 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
        logits = q @ k.transpose(0, 1, 3, 2) / math.sqrt(D // HEADS)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        heads = weights / weights.sum(-1, keepdims=True) @ v
        x = x + linear(heads.transpose(0, 2, 1, 3).reshape(x.shape), f"{block}.attn.proj")
        hidden = linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        gelu = 0.5 * hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        x = x + linear(gelu, f"{block}.mlp.fc2")
    return x if last == "fc_norm" else norm(x, "norm")


def encoded(path) -> np.ndarray:
    return np.asarray(jaxrep.load(path).encode({"image": IMAGES}, ("image",), normalize=False)["image"])


def test_features_are_those_of_the_class_token(tmp_path):
    values = tensors()
    features = encoded(written(tmp_path, values))
    np.testing.assert_allclose(features, forward(values, IMAGES)[:, 0], rtol=1e-4, atol=1e-5)  # float32


def test_features_of_a_fine_tuned_checkpoint_are_the_mean_that_a_norm_follows(tmp_path):
    values = tensors("fc_norm") | {"head.weight": np.ones((5, D), np.float32), "head.bias": np.ones(5, np.float32)}
    features = encoded(written(tmp_path, values, global_pool="avg"))
    x = forward(values, IMAGES, last="fc_norm")[:, 1:].mean(1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(features, x * values["fc_norm.weight"] + values["fc_norm.bias"], rtol=1e-4, atol=1e-5)


def small_mae():
    """Return MAE's recipe at the size of the checkpoint."""
    encoder = dataclasses.replace(mae.VIT, width=D, depth=DEPTH, heads=HEADS, stem=PatchStem(patch=PATCH))
    return mae.tiny.replace(
        {"method.encoder": encoder, "method.decoder": TokenDecoder(width=8, depth=1, heads=2)},
        views=(*mae.crops(SIDE, 0.2), dataclasses.replace(mae.recipe.views[-1], patch=PATCH)),
    )


@pytest.mark.parametrize("decoder", [False, True])
def test_the_encoder_of_mae_starts_from_a_checkpoint(tmp_path, decoder):
    """MAE's own checkpoints hold the decoder too; the encoder has the same sines without them."""
    values, recipe = tensors(), small_mae()
    names = ("mask_token", "decoder_embed.weight", "decoder_blocks.0.norm1.weight", "decoder_pos_embed")
    more = {name: np.ones((1, 1, 3), np.float32) for name in names} if decoder else {}
    path, shapes = written(tmp_path, values | more), trace_shapes(recipe)
    loading = partial_load("image", Pretrained(path), recipe.method, shapes)
    assert list(loading.missing) == [] and not loading.resized
    assert set(loading.unused) == {"image/positions", *more}
    arrays: Any = {**drawn(shapes.arrays), **loading.arrays()}
    module = shapes.structure.merge(arrays)
    kept = np.array([[0, 3, 5, 9], [1, 2, 8, 15], [4, 6, 7, 11]], np.int32)
    index = np.array([[i for i in range(16) if i not in row] for row in kept], np.int32)
    masked = np.ones((3, 16), bool)
    np.put_along_axis(masked, kept, False, axis=1)
    batch = {"image": IMAGES, "image/masked": masked, "image/masked_index": index, "image/shown_index": kept}
    out = jax.jit(lambda batch: module.per_example(batch, StepContext()))(batch)
    expected = forward(values, IMAGES, kept)[:, 1:].mean(1)
    np.testing.assert_allclose(out["image"], expected, rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(model_args={**ARGS, "pre_norm": True}), "'model_args' changes pre_norm of the architecture"),
        (dict(model_args={**ARGS, "global_pool": "map"}), "'global_pool' should be one of token, avg, and is 'map'"),
        (
            dict(model_args={**ARGS, "img_size": 32}),
            "reads images of 32 x 32 pixels, and its transform makes them of 16",
        ),
        (dict(model_args={**ARGS, "init_values": 1e-5}), "lacks tensor 'blocks.0.ls1.gamma'"),
        (dict(architecture="vit_base_patch16_clip_224"), "the architecture 'vit_base_patch16_clip_224' is not known"),
    ],
)
def test_other_models_are_refused(tmp_path, changes, sentence):
    path = written(tmp_path, tensors(), **changes)
    with pytest.raises(UsageError, match=sentence.replace("'", ".")):
        load.read(tmp_path)
    assert path
