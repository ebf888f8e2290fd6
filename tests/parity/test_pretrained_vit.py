"""Checkpoints of ViT and DINOv2 against transformers: every layer and the features, of random weights."""

import json

import numpy as np
import pytest

from jaxrep.pretrained.load import load_checkpoint
from tests.helpers.parity import assert_embeddings, assert_layers, pictures, saved

torch = pytest.importorskip("torch", reason="parity with transformers needs the extra 'parity' (torch)")
transformers = pytest.importorskip("transformers", reason="parity with transformers needs the extra 'parity'")

SIZE = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
GRID = dict(image_size=12, patch_size=4)


def check(model, folder, encoder=lambda model: model, n=3):
    ours = saved(model, folder, torch)
    x, seen = pictures(ours, n, torch)
    with torch.no_grad():
        theirs = encoder(model)(x, output_hidden_states=True)
    assert_layers(ours, "image", seen, theirs.hidden_states, theirs.last_hidden_state[:, 0])
    assert_embeddings(ours.encode_image(x.numpy()), theirs.last_hidden_state[:, 0])


@pytest.mark.parametrize("bias", [True, False])
def test_vit(tmp_path, bias):
    config = transformers.ViTConfig(**SIZE, **GRID, intermediate_size=96, qkv_bias=bias)
    check(transformers.ViTModel(config), tmp_path)


def test_vit_of_a_classifier(tmp_path):
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZE, **GRID, intermediate_size=96))
    check(model, tmp_path, lambda model: model.vit)


def dino(registers, **changes):
    fields = dict(SIZE, **GRID, mlp_ratio=3, **changes)
    if not registers:
        return transformers.Dinov2Model(transformers.Dinov2Config(**fields))
    return transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**fields, num_register_tokens=2)
    )


@pytest.mark.parametrize("registers", [False, True], ids=["", "registers"])
@pytest.mark.parametrize("swiglu", [False, True], ids=["", "swiglu"])
def test_dinov2(tmp_path, registers, swiglu):
    check(dino(registers, use_swiglu_ffn=swiglu), tmp_path)


@pytest.mark.parametrize("side", [20, 8], ids=["larger", "smaller"])
@pytest.mark.parametrize("registers", [False, True], ids=["", "registers"])
def test_dinov2_positions_are_resized_to_the_image_size(tmp_path, registers, side):
    model = dino(registers)
    transform = dict(size={"shortest_edge": side + 4}, do_center_crop=True, crop_size={"height": side, "width": side})
    transform |= dict(resample=3, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(transform))
    ours = saved(model, tmp_path, torch)
    assert ours.fields["image"].shape == (side, side, 3)
    x, seen = pictures(ours, 2, torch)
    with torch.no_grad():
        theirs = model(x, output_hidden_states=True)
    assert_layers(ours, "image", seen, theirs.hidden_states, theirs.last_hidden_state[:, 0])


FULL = {
    "vit": lambda: transformers.ViTModel(transformers.ViTConfig()),
    "dinov2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(patch_size=14, image_size=224)),
    "registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(patch_size=14, image_size=224)
    ),
    "swiglu": lambda: transformers.Dinov2Model(
        transformers.Dinov2Config(patch_size=14, image_size=224, num_hidden_layers=6, use_swiglu_ffn=True)
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_size_models(tmp_path, name):
    check(FULL[name](), tmp_path, n=2)


def test_image_transform_equals_transformers(tmp_path):
    from PIL import Image

    random = np.random.default_rng(3)
    pictures = [Image.fromarray(random.integers(0, 256, (*shape, 3), np.uint8)) for shape in ((40, 61), (33, 21))]
    saved(dino(False), tmp_path, torch)
    for changes in (
        dict(size={"shortest_edge": 15}, crop_size={"height": 12, "width": 12}, do_center_crop=True, resample=3),
        dict(size={"shortest_edge": 16}, crop_size={"height": 12, "width": 12}, do_center_crop=True, resample=2),
        dict(size={"height": 12, "width": 12}, do_center_crop=False, resample=2),
    ):
        stated = dict(changes, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
        peer = transformers.CLIPImageProcessorPil(**stated) if hasattr(transformers, "CLIPImageProcessorPil") else None
        theirs = peer(pictures, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
        ours = load_checkpoint(tmp_path)
        found = np.stack([ours.preprocess(picture) for picture in pictures])
        np.testing.assert_array_equal(found, np.round((theirs * (0.2, 0.3, 0.4) + (0.4, 0.5, 0.6)) * 255))
