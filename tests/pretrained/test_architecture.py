"""Architectures that readers make of published configurations are the presets of their towers."""

import dataclasses
from pathlib import Path

import pytest

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.bert import Bert
from jaxrep.pretrained import dinov3, eva, modernbert
from jaxrep.pretrained.architecture import Source
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.image_transform import ImageTransform
from jaxrep.pretrained.tensors import Tensors

# facebookresearch/dinov3, dinov3/hub/backbones.py: widths, depths, heads and kind of MLP; a gated one of ratio 6 has
# two thirds of that. The rest is that of all: biases but of keys, 4 registers, base 100, rescale 2.
DINOV3 = {
    "dinov3_s16": dict(hidden_size=384, intermediate_size=1536, num_hidden_layers=12, num_attention_heads=6),
    "dinov3_b16": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
    "dinov3_l16": dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16),
    "dinov3_h16plus": dict(
        **dict(hidden_size=1280, intermediate_size=1280 * 6 * 2 // 3, num_hidden_layers=32, num_attention_heads=20),
        **dict(use_gated_mlp=True, hidden_act="silu"),
    ),
}
# transformers' defaults of ModernBertConfig are those of the base model; the large one differs in its size.
MODERNBERT = {
    "modern_base": {},
    "modern_large": dict(hidden_size=1024, intermediate_size=2624, num_hidden_layers=28, num_attention_heads=16),
}
EVA = {"eva02_b16": "eva02_base_patch16_clip_224", "eva02_l14": "eva02_large_patch14_clip_224"}


def source(folder: Path, config) -> Source:
    return Source(folder, Config(config, folder / "config.json"), Tensors({}, folder), None)


@pytest.mark.parametrize("name", DINOV3)
def test_dinov3(tmp_path, name):
    config = {**DINOV3[name], "num_register_tokens": 4, "rope_theta": 100.0, "pos_embed_rescale": 2.0}
    read = dinov3.read(source(tmp_path, config)).model.encoder  # pyright: ignore[reportAttributeAccessIssue]
    assert dataclasses.replace(read, layer_scale=1e-5) == getattr(ViT, name)()  # its start, which a checkpoint lacks


@pytest.mark.parametrize("name", MODERNBERT)
def test_modernbert(tmp_path, name):
    tower = modernbert.read_tower(source(tmp_path, MODERNBERT[name]))
    assert tower.encoder == getattr(Bert, name)(pool="mean")


@pytest.mark.parametrize("name", EVA)
def test_eva02_clip(tmp_path, name):
    args = Config({**eva.DEFAULTS, **eva.ARCHITECTURES[EVA[name]]}, tmp_path)
    tower = eva.read_tower(args, ImageTransform(height=224, width=224, pixels=PixelNorm.clip()))
    assert tower.encoder == getattr(ViT, name)()
