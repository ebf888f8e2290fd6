"""ViT (Dosovitskiy et al. 2021, arXiv:2010.11929) in the layout of transformers, with or without its classifier."""

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.pretrained.architecture import Architecture, Source, single, vit_tower
from jaxrep.pretrained.config import BASE
from jaxrep.pretrained.mapping import ClassPositions, Table, attention, blocks, mlp, norm, patches

DEFAULTS = dict(**BASE, hidden_act="gelu", layer_norm_eps=1e-12, image_size=224, patch_size=16, qkv_bias=True)
"""Defaults of config.json."""

IGNORED = ("classifier.*", "*pooler.*", "*mask_token", "decoder.*")
"""Heads: features are the class token's, after the last norm."""

ATTENTION = attention("attention.attention.{}", "attention.output.dense")
"""DINOv2 has the same."""

BLOCKS = blocks(
    "encoder.layer.{layer}.",
    ("layernorm_before", "layernorm_after"),
    ATTENTION,
    mlp("intermediate.dense", "output.dense"),
)


def embedding_table(patch: int, grid: int, fit: int, *, antialias: bool = False) -> Table:
    """Return the table of patches, class token and positions; positions are resized from ``grid`` to ``fit``."""
    token, positions = "embeddings.cls_token", "embeddings.position_embeddings"
    return (
        ClassPositions(token, positions=positions, grid=grid, fit=fit, antialias=antialias, lead=1),
        *patches("embeddings.patch_embeddings.projection", patch),
    )


def table(patch: int, side: int) -> Table:
    """Return the table of a ViT for squares of ``side`` pixels."""
    return (*embedding_table(patch, side // patch, side // patch), *BLOCKS, *norm("layernorm", "norm"))


def read(source: Source) -> Architecture:
    """Read model_type ``vit``."""
    config = source.config.with_defaults(DEFAULTS)
    side, patch = config.side("image_size"), config.side("patch_size")
    transform = source.square_transform(side, PixelNorm.half())
    tower = vit_tower(transform, table(patch, side), patch, qkv_bias=config.flag("qkv_bias"), **config.size())
    return single("image", tower, source.prefix("vit."), IGNORED)
