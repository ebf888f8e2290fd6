"""ViT (Dosovitskiy et al. 2021, arXiv:2010.11929) in the layout of transformers, with or without its classifier."""

from jaxrep.batch import Field
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.pretrained.architecture import Architecture, Source, Tower, single
from jaxrep.pretrained.mapping import ClassPositions, Table, heads, linear, merged, norm, patches, under

DEFAULTS = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    image_size=224,
    patch_size=16,
    qkv_bias=True,
)
"""What config.json may leave out."""

IGNORED = ("classifier.*", "*pooler.*", "*mask_token", "decoder.*")
"""Heads: features are the class token's, after the last norm."""

ATTENTION: Table = (
    *heads("attention.attention.query", "attention/query"),
    *heads("attention.attention.key", "attention/key"),
    *heads("attention.attention.value", "attention/value"),
    *merged("attention.output.dense", "attention/out"),
)
"""Also DINOv2's."""

BLOCK: Table = (
    *norm("layernorm_before", "norm1"),
    *ATTENTION,
    *norm("layernorm_after", "norm2"),
    *linear("intermediate.dense", "mlp/up"),
    *linear("output.dense", "mlp/down"),
)


def stem(patch: int, grid: int, fit: int, *, antialias: bool = False) -> Table:
    """Patches, class token and positions; also DINOv2's, whose positions are resized from ``grid`` to ``fit``."""
    return (
        ClassPositions(
            "embeddings.cls_token",
            ("class_token", "positions"),
            positions="embeddings.position_embeddings",
            grid=grid,
            fit=fit,
            antialias=antialias,
            lead=1,
        ),
        *patches("embeddings.patch_embeddings.projection", "stem/project", patch),
    )


def table(patch: int, side: int) -> Table:
    return (
        *stem(patch, side // patch, side // patch),
        *under(BLOCK, "encoder.layer.{layer}.", "blocks/"),
        *norm("layernorm", "norm"),
    )


def read(source: Source) -> Architecture:
    """model_type ``vit``."""
    config = source.config.part("", {**DEFAULTS, **source.config.values})
    side, patch = config.side("image_size"), config.side("patch_size")
    transform = source.pictures(side, PixelNorm.half())
    encoder = ViT(
        **config.size(), qkv_bias=config.flag("qkv_bias"), stem=PatchStem(patch=patch), pixels=transform.pixels
    )
    tower = Tower(encoder, Field((side, side, 3), "uint8"), table(patch, side), transform=transform)
    return single("image", tower, source.below("vit."), IGNORED)
