"""SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2 of fixed resolution (Tschannen et al. 2025,
arXiv:2502.14786), which share one layout: both towers, or one of them."""

import math

from jaxrep.batch import Field
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.pretrained.architecture import Architecture, Config, Source, Tower, dual, single
from jaxrep.pretrained.clip import BLOCKS, IGNORED, TEXT_TOWER
from jaxrep.pretrained.mapping import Row, Table, fused, linear, merged, norm, patches, under
from jaxrep.pretrained.tokenizers import find_siglip_tokenizer

SIZE = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
)
VISION = dict(**SIZE, image_size=224, patch_size=16, vision_use_head=True)
TEXT = dict(**SIZE, vocab_size=32_000, max_position_embeddings=64)
"""What config.json may leave out."""

HEAD: Table = (
    Row("probe", "probe", "1 1 d -> d"),
    *fused("attention.in_proj", "attention"),
    *merged("attention.out_proj", "attention/out"),
    *norm("layernorm", "norm"),
    *linear("mlp.fc1", "mlp/up"),
    *linear("mlp.fc2", "mlp/down"),
)
"""A learned query attends to the patches."""


def image_table(patch: int) -> Table:
    return (
        *patches("embeddings.patch_embedding", "stem/project", patch),
        Row("embeddings.position_embedding.weight", "positions"),
        *BLOCKS,
        *norm("post_layernorm", "norm"),
        *under(HEAD, "head.", "pool/"),
    )


def read_dual(source: Source) -> Architecture:
    """model_type ``siglip``."""
    image = image_tower(source, source.config.part("vision_config", VISION))
    text = text_tower(source, source.config.part("text_config", TEXT), "text_model.")
    scale, prefixes = LogitScale(init=10.0, max=math.inf), ("vision_model.", "text_model.")
    return dual(source, image, text, prefixes, image.encoder.features, scale, IGNORED)


def read_image(source: Source) -> Architecture:
    """model_type ``siglip_vision_model``."""
    tower = image_tower(source, source.config.part("", {**VISION, **source.config.values}))
    return single("image", tower, source.below("vision_model."), IGNORED)


def read_text(source: Source) -> Architecture:
    """model_type ``siglip_text_model``."""
    prefix = source.below("text_model.")
    tower = text_tower(source, source.config.part("", {**TEXT, **source.config.values}), prefix)
    return single("text", tower, prefix, IGNORED)


def image_tower(source: Source, config: Config) -> Tower:
    config.expect(vision_use_head=True)
    side, patch = config.side("image_size"), config.side("patch_size")
    transform = source.pictures(side, PixelNorm.half())
    encoder = ViT(**config.size(), stem=PatchStem(patch=patch), pool="attention", pixels=transform.pixels)
    return Tower(encoder, Field((side, side, 3), "uint8"), image_table(patch), transform=transform)


def text_tower(source: Source, config: Config, prefix: str) -> Tower:
    """Reads its padding as text, and makes its features of the last token, whatever it is."""
    encoder = TextTransformer(**config.size(), causal=False, pool="eos", end="never")
    width = config.part("", {"projection_size": None, **config.values}).values["projection_size"]
    field = Field((config.whole("max_position_embeddings"),), "int32", config.whole("vocab_size"))
    return Tower(
        encoder,
        field,
        TEXT_TOWER,
        Linear(features=width or encoder.width, bias=True),
        linear(f"{prefix}head", ""),
        tokenizer=find_siglip_tokenizer(source.folder, field),
    )
