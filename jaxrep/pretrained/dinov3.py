"""DINOv3's vision transformers (Simeoni et al. 2025, arXiv:2508.10104) in the layout of transformers."""

from typing import Any

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.encoders.positions import AxialRotary
from jaxrep.errors import UsageError
from jaxrep.pretrained.architecture import Architecture, Source, single, vit_tower
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.mapping import Table, WeightMap, attention, blocks, linear, mlp, norm, patches

DEFAULTS = dict(
    hidden_size=384,
    intermediate_size=1536,
    num_hidden_layers=12,
    num_attention_heads=6,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
    image_size=224,
    patch_size=16,
    num_register_tokens=0,
    rope_theta=100.0,
    query_bias=True,
    key_bias=False,
    value_bias=True,
    proj_bias=True,
    mlp_bias=True,
    use_gated_mlp=False,
)
"""Defaults of config.json."""

IGNORED = ("classifier.*",)


def table(patch: int, layers: str) -> Table:
    """Return the table; ``layers``: what stands before the number of a layer in the names of its tensors."""
    return (
        WeightMap("embeddings.cls_token", "class_token", "1 1 d -> d"),
        WeightMap("embeddings.mask_token", "mask_token", "1 1 d -> d"),
        WeightMap("embeddings.register_tokens", "registers", "1 n d -> n d"),
        *patches("embeddings.patch_embeddings", patch),
        *blocks(
            f"{layers}{{layer}}.",
            ("norm1", "norm2"),
            attention("attention.{}_proj", "attention.o_proj", "qkv"),
            (WeightMap("layer_scale1.lambda1", "scale1"), WeightMap("layer_scale2.lambda1", "scale2")),
            (*mlp("mlp.up_proj", "mlp.down_proj"), *linear("mlp.gate_proj", "mlp/gate")),
        ),
        *norm("norm", "norm"),
    )


def read(source: Source) -> Architecture:
    """Read model_type ``dinov3_vit``, for the image size of the folder's transform."""
    config = source.config.with_defaults(DEFAULTS)
    patch = config.side("patch_size")
    side = source.transform.height if source.transform else config.side("image_size")
    transform = source.square_transform(side, PixelNorm.imagenet())
    registers = config.values["num_register_tokens"] and config.whole("num_register_tokens")
    prefix = source.prefix("dinov3_vit.")
    layers = "layer." if source.has(f"{prefix}layer.0.norm1.weight") else "model.layer."
    tower = vit_tower(
        transform,
        table(patch, layers),
        patch,
        positions="none",
        rotary=_rotary(config),
        registers=registers,
        mask_token=source.has(f"{prefix}embeddings.mask_token"),
        layer_scale=1.0,
        gated=config.flag("use_gated_mlp"),
        mlp_bias=config.flag("mlp_bias"),
        **_biases(config),
        **config.size(),
    )
    return single("image", tower, prefix, IGNORED if registers else (*IGNORED, "*register_tokens"))


def _biases(config: Config) -> dict[str, bool]:
    query, key, value = (config.flag(f"{part}_bias") for part in ("query", "key", "value"))
    if query != value or (key and not query):
        raise UsageError(
            f"{config.file}: 'query_bias' is {query}, 'key_bias' {key} and 'value_bias' {value}: only models in which "
            "queries and values both have a bias or both have none can be read, and keys have one only if they do"
        )
    return {"qkv_bias": query, "key_bias": key or not query, "out_bias": config.flag("proj_bias")}


def _rotary(config: Config) -> AxialRotary:
    """Return the positions; training moves coordinates as the file says (null: not at all)."""
    values = {"pos_embed_shift": None, "pos_embed_jitter": None, "pos_embed_rescale": 2.0, **config.values}
    moved: dict[str, Any] = {
        name.removeprefix("pos_embed_"): Config(values, config.file).number(name)
        for name in ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale")
        if values[name] is not None
    }
    return AxialRotary(base=config.number("rope_theta"), **moved)
