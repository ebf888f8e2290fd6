"""CLIP (Radford et al. 2021, arXiv:2103.00020) in the layout of transformers: both towers, or one of them."""

from typing import Any

from jaxrep.batch import Field
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.methods.heads import Identity, Linear, LogitScale
from jaxrep.pretrained.architecture import Architecture, Config, Source, Tower, dual, single
from jaxrep.pretrained.mapping import ClassPositions, Row, Table, heads, linear, merged, norm, patches, under
from jaxrep.pretrained.tokenizers import find_tokenizer

SIZE = dict(num_hidden_layers=12, hidden_act="quick_gelu", layer_norm_eps=1e-5, projection_dim=512)
VISION = dict(**SIZE, hidden_size=768, intermediate_size=3072, num_attention_heads=12, image_size=224, patch_size=32)
TEXT = dict(
    **SIZE,
    hidden_size=512,
    intermediate_size=2048,
    num_attention_heads=8,
    vocab_size=49_408,
    max_position_embeddings=77,
    eos_token_id=49_407,
)
"""What config.json may leave out."""

LEGACY_EOS = 2
"""An eos_token_id that old files state though it is wrong: with it, the token of the highest id ends a text."""

IGNORED = ("*position_ids",)

BLOCK: Table = (
    *norm("layer_norm1", "norm1"),
    *heads("self_attn.q_proj", "attention/query"),
    *heads("self_attn.k_proj", "attention/key"),
    *heads("self_attn.v_proj", "attention/value"),
    *merged("self_attn.out_proj", "attention/out"),
    *norm("layer_norm2", "norm2"),
    *linear("mlp.fc1", "mlp/up"),
    *linear("mlp.fc2", "mlp/down"),
)
BLOCKS = under(BLOCK, "encoder.layers.{layer}.", "blocks/")

TEXT_TOWER: Table = (
    Row("embeddings.token_embedding.weight", "embedding"),
    Row("embeddings.position_embedding.weight", "positions"),
    *BLOCKS,
    *norm("final_layer_norm", "norm"),
)


def image_table(patch: int, side: int) -> Table:
    """The image tower, of squares of ``side`` pixels in patches of ``patch``."""
    grid = side // patch
    return (
        ClassPositions(
            "embeddings.class_embedding",
            ("class_token", "positions"),
            positions="embeddings.position_embedding.weight",
            grid=grid,
            fit=grid,
        ),
        *patches("embeddings.patch_embedding", "stem/project", patch),
        *norm("pre_layrnorm", "embed_norm"),
        *BLOCKS,
        *norm("post_layernorm", "norm"),
    )


def read_dual(source: Source) -> Architecture:
    """model_type ``clip``."""
    config = source.config.part("", {"projection_dim": 512, **source.config.values})
    dim, prefixes = config.whole("projection_dim"), ("vision_model.", "text_model.")
    image = image_tower(source, _part(config, "vision", VISION), dim)
    text = text_tower(source, _part(config, "text", TEXT), dim)
    return dual(source, image, text, prefixes, dim, LogitScale(), IGNORED)


def read_image(source: Source) -> Architecture:
    """model_type ``clip_vision_model``, with or without its projection."""
    tower = image_tower(source, source.config.part("", {**VISION, **source.config.values}))
    return single("image", tower, source.below("vision_model."), IGNORED)


def read_text(source: Source) -> Architecture:
    """model_type ``clip_text_model``, with or without its projection."""
    tower = text_tower(source, source.config.part("", {**TEXT, **source.config.values}))
    return single("text", tower, source.below("text_model."), IGNORED)


def _part(config: Config, name: str, defaults: dict[str, Any]) -> Config:
    """One tower's part; old files repeat it under another name, which has the last word."""
    legacy = f"{name}_config_dict"
    return config.part(legacy if config.values.get(legacy) else f"{name}_config", defaults)


def image_tower(source: Source, config: Config, dim: int = 0) -> Tower:
    """``dim``: width of the projection; 0: there may be one, as wide as the config says."""
    side, patch = config.side("image_size"), config.side("patch_size")
    transform = source.pictures(side, PixelNorm.clip(), shorter=side)
    encoder = ViT(**config.size(), stem=PatchStem(patch=patch, bias=False), embed_norm=True, pixels=transform.pixels)
    head, projection = _projection(source, config, "visual_projection", dim)
    field = Field((side, side, 3), "uint8")
    return Tower(encoder, field, image_table(patch, side), head, projection, transform=transform)


def text_tower(source: Source, config: Config, dim: int = 0) -> Tower:
    """``dim``: as of the image tower."""
    end = config.whole("eos_token_id")
    encoder = TextTransformer(**config.size(), end="highest" if end == LEGACY_EOS else end)
    head, projection = _projection(source, config, "text_projection", dim)
    field = Field((config.whole("max_position_embeddings"),), "int32", config.whole("vocab_size"))
    return Tower(encoder, field, TEXT_TOWER, head, projection, tokenizer=find_tokenizer(source.folder, field))


def _projection(source: Source, config: Config, name: str, dim: int) -> tuple[Any, Table]:
    """The head of a tower, where there is one, and its rows."""
    if not (dim or source.has(f"{name}.weight")):
        return Identity(), ()
    return Linear(features=dim or config.whole("projection_dim")), linear(name, "")
