"""CLIP (Radford et al. 2021, arXiv:2103.00020) in the layout of transformers: both towers, or one of them."""

import dataclasses
from typing import Any

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.pretrained.architecture import Architecture, Source, Tower, dual, single, text_tower, vit_tower
from jaxrep.pretrained.config import BASE, Config
from jaxrep.pretrained.mapping import ClassPositions, Table, WeightMap, attention, blocks, linear, mlp, norm, patches

VISION = dict(**BASE, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512, image_size=224, patch_size=32)
TEXT = VISION | dict(
    hidden_size=512,
    intermediate_size=2048,
    num_attention_heads=8,
    vocab_size=49_408,
    max_position_embeddings=77,
    eos_token_id=49_407,
)
"""Defaults of config.json."""

LEGACY_EOS = 2
"""A wrong eos_token_id in old files; with it the token of the highest id ends a text."""

METACLIP_2 = "metaclip_2"
"""The model_type of MetaCLIP 2 (Chuang et al. 2025, arXiv:2507.22062), in whose vocabulary 2 does end a text."""

IGNORED = ("*position_ids",)

BLOCKS = blocks(
    "encoder.layers.{layer}.",
    ("layer_norm1", "layer_norm2"),
    attention("self_attn.{}_proj", "self_attn.out_proj", "qkv"),
    mlp("mlp.fc1", "mlp.fc2"),
)

TEXT_TOWER: Table = (
    WeightMap("embeddings.token_embedding.weight", "embedding"),
    WeightMap("embeddings.position_embedding.weight", "positions"),
    *BLOCKS,
    *norm("final_layer_norm", "norm"),
)


def image_table(patch: int, side: int) -> Table:
    """Return the table of the image tower, for squares of ``side`` pixels in patches of ``patch`` pixels."""
    grid, positions = side // patch, "embeddings.position_embedding.weight"
    return (
        ClassPositions("embeddings.class_embedding", positions=positions, grid=grid, fit=grid),
        *patches("embeddings.patch_embedding", patch),
        *norm("pre_layrnorm", "embed_norm"),
        *BLOCKS,
        *norm("post_layernorm", "norm"),
    )


def read_dual(source: Source) -> Architecture:
    """Read model_type ``clip``."""
    config = source.config.with_defaults({"projection_dim": 512})
    dim, prefixes = config.whole("projection_dim"), ("vision_model.", "text_model.")
    image = read_image_tower(source, _part(config, "vision", VISION), dim)
    text = read_text_tower(source, _part(config, "text", TEXT), dim)
    return dual(source, image, text, prefixes, dim, LogitScale(), IGNORED)


def read_image(source: Source) -> Architecture:
    """Read model_type ``clip_vision_model``, with or without its projection."""
    tower = read_image_tower(source, source.config.with_defaults(VISION))
    return single("image", tower, source.prefix("vision_model."), IGNORED)


def read_text(source: Source) -> Architecture:
    """Read model_type ``clip_text_model``, with or without its projection."""
    tower = read_text_tower(source, source.config.with_defaults(TEXT))
    return single("text", tower, source.prefix("text_model."), IGNORED)


def _part(config: Config, name: str, defaults: dict[str, Any]) -> Config:
    """Return the config of one tower; if an old file repeats it under another name, that one is valid."""
    legacy = f"{name}_config_dict"
    return config.part(legacy if config.values.get(legacy) else f"{name}_config", defaults)


def read_image_tower(source: Source, config: Config, dim: int = 0) -> Tower:
    """Read the image tower; ``dim`` is the width of the projection, 0 for the config's if there is a projection."""
    side, patch = config.side("image_size"), config.side("patch_size")
    transform, table = source.square_transform(side, PixelNorm.clip(), shorter=side), image_table(patch, side)
    tower = vit_tower(transform, table, patch, stem_bias=False, embed_norm=True, **config.size())
    return _with_projection(source, config, tower, "visual_projection", dim)


def read_text_tower(source: Source, config: Config, dim: int = 0) -> Tower:
    """Read the text tower; ``dim`` as for the image tower."""
    end = config.whole("eos_token_id")
    legacy = end == LEGACY_EOS and not str(source.config.values.get("model_type")).startswith(METACLIP_2)
    tower = text_tower(source, config, TEXT_TOWER, end="highest" if legacy else end, **config.size())
    return _with_projection(source, config, tower, "text_projection", dim)


def _with_projection(source: Source, config: Config, tower: Tower, name: str, dim: int) -> Tower:
    if not (dim or source.has(f"{name}.weight")):
        return tower
    head = Linear(features=dim or config.whole("projection_dim"))
    return dataclasses.replace(tower, head=head, projection=linear(name, ""))
