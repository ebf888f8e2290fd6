"""ViT (Dosovitskiy et al. 2021, arXiv:2010.11929) in the layout of timm, which MAE's released code has as well.

A checkpoint of MAE (He et al. 2022, arXiv:2111.06377) holds the sines of its positions as if they were learned, and may
hold the decoder, which is not read.
"""

from collections.abc import Mapping
from typing import Any

from jaxrep.pretrained.architecture import Architecture, Source, single, vit_tower
from jaxrep.pretrained.mapping import (
    ClassPositions,
    Table,
    WeightMap,
    blocks,
    fused_attention,
    mlp,
    norm,
    patches,
)
from jaxrep.pretrained.timm import arguments, image_transform, square_side

DEFAULTS: Mapping[str, Any] = dict(
    img_size=224,
    patch_size=16,
    embed_dim=768,
    depth=12,
    num_heads=12,
    mlp_ratio=4.0,
    qkv_bias=True,
    init_values=None,
    global_pool="token",
)
"""Arguments of a model, and the values that the architectures share."""

SIZES: Mapping[str, tuple[Mapping[str, int], tuple[int, ...]]] = {
    "tiny": (dict(embed_dim=192, num_heads=3), (16,)),
    "small": (dict(embed_dim=384, num_heads=6), (8, 16, 32)),
    "base": ({}, (8, 16, 32)),
    "large": (dict(embed_dim=1024, depth=24, num_heads=16), (14, 16, 32)),
    "huge": (dict(embed_dim=1280, depth=32, num_heads=16), (14,)),
}
"""Arguments by size, and the sides of patches that the size has."""

ARCHITECTURES: Mapping[str, Mapping[str, int]] = {
    f"vit_{size}_patch{patch}_{side}": dict(**own, patch_size=patch, img_size=side)
    for size, (own, sides) in SIZES.items()
    for patch in sides
    for side in ((224, 384) if patch > 14 else (224,))
}
"""By the ``architecture`` of config.json: arguments that differ from the defaults."""

IGNORED = ("head.*", "mask_token", "decoder_*")
"""A classifier, and the decoder of MAE."""


def table(patch: int, grid: int, last: str) -> Table:
    """Return the table for a square grid of patches; ``last``: the norm after the blocks, or of the pooled features."""
    scales = WeightMap("ls1.gamma", "scale1"), WeightMap("ls2.gamma", "scale2")
    return (
        ClassPositions("cls_token", positions="pos_embed", lead=1, grid=grid, fit=grid),
        *patches("patch_embed.proj", patch),
        *blocks(
            "blocks.{layer}.",
            ("norm1", "norm2"),
            fused_attention("attn.qkv.{}", "attn.proj"),
            mlp("mlp.fc1", "mlp.fc2"),
            scales,
        ),
        *norm(last, "norm"),
    )


def read(source: Source) -> Architecture:
    """Read one of ``ARCHITECTURES``: the class token, or the mean of the patches, which the last norm follows."""
    args = arguments(source.config, {**DEFAULTS, **ARCHITECTURES[source.config.values["architecture"]]})
    transform = image_transform(source.config)
    side, patch, width = square_side(args, transform), args.whole("patch_size"), args.whole("embed_dim")
    token = args.choice("global_pool", ("token", "avg")) == "token"
    pooling: dict[str, Any] = dict(pool="cls") if token else dict(pool="mean", class_token=True, pool_first=True)
    tower = vit_tower(
        transform,
        table(patch, side // patch, "norm" if token else "fc_norm"),
        patch,
        **pooling,
        width=width,
        depth=args.whole("depth"),
        heads=args.whole("num_heads"),
        mlp_ratio=int(width * args.number("mlp_ratio")) / width,
        norm_epsilon=1e-6,
        qkv_bias=args.flag("qkv_bias"),
        layer_scale=1.0 if args.values["init_values"] else 0.0,
    )
    return single("image", tower, ignored=IGNORED)
