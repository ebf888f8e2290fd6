"""EVA (Fang et al. 2022, arXiv:2211.07636) and EVA-02 (Fang et al. 2023, arXiv:2303.11331) in the layout of timm.

EVA-02 has rotary positions besides learned ones, gated MLPs and more norms. EVA-CLIP's image towers (Sun et al. 2023,
arXiv:2303.15389) are read from their class token, the others from the mean over patches, which a norm follows.
"""

from collections.abc import Mapping
from typing import Any

from jaxrep.encoders.positions import AxialRotary
from jaxrep.pretrained.architecture import Architecture, Source, Tower, single, vit_tower
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.image_transform import ImageTransform
from jaxrep.pretrained.mapping import (
    HEADS,
    PARTS,
    ClassPositions,
    Table,
    WeightMap,
    blocks,
    linear,
    mlp,
    norm,
    patches,
)
from jaxrep.pretrained.timm import arguments, image_transform, square_side

DEFAULTS: Mapping[str, Any] = dict(
    img_size=224,
    patch_size=14,
    embed_dim=768,
    depth=12,
    num_heads=12,
    mlp_ratio=4.0,
    qkv_bias=True,
    qkv_fused=True,
    swiglu_mlp=False,
    scale_mlp=False,
    scale_attn_inner=False,
    use_rot_pos_emb=False,
    ref_feat_shape=None,
    global_pool="avg",
)
"""Arguments of a model, and the values that the architectures share."""

GIANT = dict(embed_dim=1408, depth=40, num_heads=16, mlp_ratio=6144 / 1408)
ROTARY = dict(mlp_ratio=4 * 2 / 3, swiglu_mlp=True, use_rot_pos_emb=True, ref_feat_shape=[16, 16])
NORMED = dict(**ROTARY, qkv_fused=False, scale_mlp=True)
CLIP = dict(**NORMED, scale_attn_inner=True, global_pool="token")
TINY, SMALL = dict(embed_dim=192, num_heads=3), dict(embed_dim=384, num_heads=6)
LARGE = dict(embed_dim=1024, depth=24, num_heads=16)

ARCHITECTURES: Mapping[str, Mapping[str, Any]] = {
    **{f"eva_giant_patch14_{side}": dict(**GIANT, img_size=side) for side in (224, 336, 560)},
    "eva_giant_patch14_clip_224": dict(**GIANT, global_pool="token"),
    **{f"eva02_tiny_patch14_{side}": dict(**ROTARY, **TINY, img_size=side) for side in (224, 336)},
    **{f"eva02_small_patch14_{side}": dict(**ROTARY, **SMALL, img_size=side) for side in (224, 336)},
    **{f"eva02_base_patch14_{side}": dict(**NORMED, img_size=side) for side in (224, 448)},
    **{f"eva02_large_patch14_{side}": dict(**NORMED, **LARGE, img_size=side) for side in (224, 448)},
    "eva02_base_patch16_clip_224": dict(**CLIP, patch_size=16),
    **{f"eva02_large_patch14_clip_{side}": dict(**CLIP, **LARGE, img_size=side) for side in (224, 336)},
}
"""By the ``architecture`` of config.json: arguments that differ from the defaults."""

# timm turns channels 2 i and 2 i + 1 of a head, jaxrep i and i + d/2.
PAIRS = (("r", 2),)
MIXED = "(h p r) d -> d h (r p)"
MIXED_BIAS = "(h p r) -> h (r p)"


def attention_table(fused: bool) -> Table:
    """Return the table of attention; queries and keys have other orders of channels, and in one layer values too."""
    inner = norm("attn.norm", "attention/inner_norm")
    if fused:
        kernels = tuple(f"attention/{part}/kernel" for part in PARTS)
        return (
            WeightMap("attn.qkv.weight", kernels, "(n h p r) d -> n d h (r p)", PAIRS),
            WeightMap("attn.q_bias", "attention/query/bias", MIXED_BIAS, PAIRS),
            WeightMap("attn.v_bias", "attention/value/bias", MIXED_BIAS, PAIRS),
            WeightMap("attn.proj.weight", "attention/out/kernel", "d (h p r) -> h (r p) d", PAIRS),
            WeightMap("attn.proj.bias", "attention/out/bias"),
        )
    return (
        WeightMap("attn.q_proj.weight", "attention/query/kernel", MIXED, PAIRS),
        WeightMap("attn.q_proj.bias", "attention/query/bias", MIXED_BIAS, PAIRS),
        WeightMap("attn.k_proj.weight", "attention/key/kernel", MIXED, PAIRS),
        *linear("attn.v_proj", "attention/value", "(h k) d -> d h k", "(h k) -> h k"),
        *linear("attn.proj", "attention/out", HEADS),
        *inner,
    )


def mlp_table(gated: bool, normed: bool) -> Table:
    """Return the table of the MLP; a gated one has its first two layers in one tensor if it has no norm."""
    if not gated:
        return (*mlp("mlp.fc1", "mlp.fc2"), *norm("mlp.norm", "mlp/inner_norm"))
    if normed:
        return (*linear("mlp.fc1_g", "mlp/gate"), *mlp("mlp.fc1_x", "mlp.fc2"), *norm("mlp.norm", "mlp/inner_norm"))
    return (
        WeightMap("mlp.fc1.weight", ("mlp/gate/kernel", "mlp/up/kernel"), "(n o) i -> n i o"),
        WeightMap("mlp.fc1.bias", ("mlp/gate/bias", "mlp/up/bias"), "(n o) -> n o"),
        *linear("mlp.fc2", "mlp/down"),
    )


def read(source: Source) -> Architecture:
    """Read one of ``ARCHITECTURES``; features are those before the classifier, or before EVA-CLIP's projection."""
    config = source.config
    args = arguments(config, {**DEFAULTS, **ARCHITECTURES[config.values["architecture"]]})
    return single("image", read_tower(args, image_transform(config)), ignored=("head.*",))


def read_tower(args: Config, transform: ImageTransform) -> Tower:
    """Read the tower of a model with these arguments, for the images of a transform.

    Raises:
        UsageError: an argument is invalid, or the images have another size than the positions.
    """
    side, patch, width = square_side(args, transform), args.whole("patch_size"), args.whole("embed_dim")
    gated, inner = args.flag("swiglu_mlp"), {"attention": "scale_attn_inner", "mlp": "scale_mlp"}
    token = args.choice("global_pool", ("token", "avg")) == "token"
    first, last = ("class_token", "norm") if token else ("registers", "fc_norm")
    grid: Any = dict(grid=side // patch, fit=side // patch)
    table = (
        ClassPositions("cls_token", (first, "positions"), positions="pos_embed", lead=1, **grid),
        *patches("patch_embed.proj", patch),
        *blocks(
            "blocks.{layer}.",
            ("norm1", "norm2"),
            attention_table(args.flag("qkv_fused")),
            mlp_table(gated, args.flag("scale_mlp")),
        ),
        *norm(last, "norm"),
    )
    pooling: dict[str, Any] = dict(pool="cls") if token else dict(pool="mean", registers=1, pool_first=True)
    return vit_tower(
        transform,
        table,
        patch,
        **pooling,
        width=width,
        depth=args.whole("depth"),
        heads=args.whole("num_heads"),
        mlp_ratio=int(width * args.number("mlp_ratio")) / width,
        activation="silu" if gated else "gelu",
        gated=gated,
        norm_epsilon=1e-6,
        qkv_bias=args.flag("qkv_bias"),
        key_bias=False,
        inner_norms=tuple(name for name, argument in inner.items() if args.flag(argument)),
        rotary=_rotary(args) if args.flag("use_rot_pos_emb") else None,
    )


def _rotary(args: Config) -> AxialRotary:
    reference = args.side("ref_feat_shape") if args.values["ref_feat_shape"] else 0
    return AxialRotary(base=10_000.0, normalized=False, reference=reference)
