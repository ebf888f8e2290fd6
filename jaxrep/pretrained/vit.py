"""ViT (Dosovitskiy et al. 2021, arXiv:2010.11929) and DINOv2 in the layout of transformers.

DINOv2 (Oquab et al. 2024, arXiv:2304.07193) has registers (Darcet et al. 2024, arXiv:2309.16588) or none.
"""

from typing import Any

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.pretrained.architecture import Architecture, Source, single, vit_tower
from jaxrep.pretrained.config import BASE, Config
from jaxrep.pretrained.mapping import ClassPositions, Table, WeightMap, attention, blocks, linear, mlp, norm, patches

DEFAULTS = dict(**BASE, hidden_act="gelu", layer_norm_eps=1e-12, image_size=224, patch_size=16, qkv_bias=True)
"""Defaults of config.json."""

IGNORED = ("classifier.*", "*pooler.*", "*mask_token", "decoder.*")
"""Heads: features are the class token's, after the last norm."""

ATTENTION = attention("attention.attention.{}", "attention.output.dense")

BLOCKS = blocks(
    "encoder.layer.{layer}.",
    ("layernorm_before", "layernorm_after"),
    ATTENTION,
    mlp("intermediate.dense", "output.dense"),
)


def table(patch: int, side: int, fit: int = 0, layers: Table = BLOCKS, *, antialias: bool = False) -> Table:
    """Return the table for squares of ``side`` pixels; positions are resized to squares of ``fit`` pixels, if given."""
    grid: Any = dict(grid=side // patch, fit=(fit or side) // patch, antialias=antialias)
    return (
        ClassPositions("embeddings.cls_token", positions="embeddings.position_embeddings", lead=1, **grid),
        *patches("embeddings.patch_embeddings.projection", patch),
        WeightMap("embeddings.mask_token", "mask_token", "1 d -> d"),
        WeightMap("embeddings.register_tokens", "registers", "1 n d -> n d"),
        *layers,
        *norm("layernorm", "norm"),
    )


def read(source: Source) -> Architecture:
    """Read model_type ``vit``."""
    return _read(source, PixelNorm.half())


def read_mae(source: Source) -> Architecture:
    """Read model_type ``vit_mae`` (He et al. 2022, arXiv:2111.06377): MAE's encoder, with sines as positions."""
    return _read(source, PixelNorm.imagenet())


def _read(source: Source, pixels: PixelNorm) -> Architecture:
    """Read a ViT; ``pixels``: normalization of the family, if the folder states none."""
    config = source.config.with_defaults(DEFAULTS)
    side, patch = config.side("image_size"), config.side("patch_size")
    transform = source.square_transform(side, pixels)
    tower = vit_tower(transform, table(patch, side), patch, qkv_bias=config.flag("qkv_bias"), **config.size())
    return single("image", tower, source.prefix("vit."), IGNORED)


# DINOv2 ---------------------------------------------------------------------------------------------------------------

DINOV2 = DEFAULTS | dict(mlp_ratio=4, layer_norm_eps=1e-6, use_swiglu_ffn=False, num_register_tokens=4)
REGISTERS = "dinov2_with_registers"
SWIGLU: Table = (
    WeightMap("mlp.weights_in.weight", ("mlp/gate/kernel", "mlp/up/kernel"), "(n o) i -> n i o"),
    WeightMap("mlp.weights_in.bias", ("mlp/gate/bias", "mlp/up/bias"), "(n o) -> n o"),
    *linear("mlp.weights_out", "mlp/down"),
)
"""Gated MLP, whose gate and values are one layer in the checkpoint."""


def read_dinov2(source: Source) -> Architecture:
    """Read model_type ``dinov2`` or ``dinov2_with_registers``, for the image size of the folder's transform."""
    config = source.config.with_defaults(DINOV2)
    trained, patch = config.side("image_size"), config.side("patch_size")
    side = source.transform.height if source.transform else trained
    transform = source.square_transform(side, PixelNorm.imagenet(), shorter=side)
    prefix = source.prefix("dinov2.", f"{REGISTERS}.")
    registers, gated = config.values.get("model_type") == REGISTERS, config.flag("use_swiglu_ffn")
    scales = WeightMap("layer_scale1.lambda1", "scale1"), WeightMap("layer_scale2.lambda1", "scale2")
    feed_forward = SWIGLU if gated else mlp("mlp.fc1", "mlp.fc2")
    layers = blocks("encoder.layer.{layer}.", ("norm1", "norm2"), ATTENTION, scales, feed_forward)
    tower = vit_tower(
        transform,
        table(patch, trained, side, layers, antialias=registers),  # as in the released code
        patch,
        qkv_bias=config.flag("qkv_bias"),
        layer_scale=1.0,
        registers=config.whole("num_register_tokens") if registers else 0,
        mask_token=source.has(f"{prefix}embeddings.mask_token"),
        **_size(config, gated),
    )
    return single("image", tower, prefix, ("classifier.*",))


def _size(config: Config, gated: bool) -> dict:
    """Return the size; a gated MLP has 2/3 of the hidden width, rounded up to a multiple of 8 (Shazeer 2020)."""
    hidden = int(config.whole("hidden_size") * config.number("mlp_ratio"))
    if gated:
        hidden = -(-int(hidden * 2 / 3) // 8) * 8
    size = Config({**config.values, "intermediate_size": hidden}, config.file).size()
    return {**size, "gated": True, "activation": "silu"} if gated else size
