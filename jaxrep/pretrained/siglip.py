"""SigLIP (Zhai et al. 2023, arXiv:2303.15343) in the layout of transformers: both towers, or one of them.

SigLIP 2 of fixed resolution (Tschannen et al. 2025, arXiv:2502.14786) has the same layout.
"""

import dataclasses
import sys

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.pretrained.architecture import Architecture, Source, Tower, dual, single, text_tower, vit_tower
from jaxrep.pretrained.clip import BLOCKS, IGNORED, TEXT_TOWER
from jaxrep.pretrained.config import BASE, Config
from jaxrep.pretrained.mapping import Table, WeightMap, linear, mlp, norm, patches, torch_attention, under
from jaxrep.pretrained.tokenizers import find_siglip_tokenizer

SIZE = dict(**BASE, hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6)
VISION = dict(**SIZE, image_size=224, patch_size=16, vision_use_head=True)
TEXT = dict(**SIZE, vocab_size=32_000, max_position_embeddings=64, projection_size=None)
"""Defaults of config.json."""

UNLIMITED = sys.float_info.max

POOLING: Table = (
    WeightMap("probe", "probe", "1 1 d -> d"),
    *torch_attention("attention"),
    *norm("layernorm", "norm"),
    *mlp("mlp.fc1", "mlp.fc2"),
)
"""Attention pooling: a learned query attends to the patches."""


def image_table(patch: int) -> Table:
    """Return the table of the image tower."""
    return (
        *patches("embeddings.patch_embedding", patch),
        WeightMap("embeddings.position_embedding.weight", "positions"),
        *BLOCKS,
        *norm("post_layernorm", "norm"),
        *under(POOLING, "head.", "pool/"),
    )


def read_dual(source: Source) -> Architecture:
    """Read model_type ``siglip``."""
    image = read_image_tower(source, source.config.part("vision_config", VISION))
    text = read_text_tower(source, source.config.part("text_config", TEXT), "text_model.")
    scale, prefixes = LogitScale(init=10.0, max=UNLIMITED), ("vision_model.", "text_model.")
    return dual(source, image, text, prefixes, image.encoder.features, scale, IGNORED)


def read_image(source: Source) -> Architecture:
    """Read model_type ``siglip_vision_model``."""
    tower = read_image_tower(source, source.config.with_defaults(VISION))
    return single("image", tower, source.prefix("vision_model."), IGNORED)


def read_text(source: Source) -> Architecture:
    """Read model_type ``siglip_text_model``."""
    prefix = source.prefix("text_model.")
    return single("text", read_text_tower(source, source.config.with_defaults(TEXT), prefix), prefix, IGNORED)


def read_image_tower(source: Source, config: Config) -> Tower:
    """Read the image tower."""
    config.expect(vision_use_head=True)
    patch = config.side("patch_size")
    transform = source.square_transform(config.side("image_size"), PixelNorm.half())
    return vit_tower(transform, image_table(patch), patch, pool="attention", **config.size())


def read_text_tower(source: Source, config: Config, prefix: str) -> Tower:
    """Read the text tower, which reads padding as text and pools the last token whatever it is."""
    size = dict(config.size(), causal=False, pool="eos", end="never")
    tower = text_tower(source, config, TEXT_TOWER, find=find_siglip_tokenizer, **size)
    head = Linear(features=config.values["projection_size"] or tower.encoder.features, bias=True)
    return dataclasses.replace(tower, head=head, projection=linear(f"{prefix}head", ""))
