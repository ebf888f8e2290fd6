"""CLIP in the layout of open_clip (Ilharco et al. 2021, doi:10.5281/zenodo.5143773): open_clip_config.json."""

import dataclasses
import functools
from typing import Any

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.errors import UsageError
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.pretrained import eva
from jaxrep.pretrained.architecture import Architecture, Source, Tower, dual, text_tower, vit_tower
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.image_transform import ImageTransform
from jaxrep.pretrained.mapping import (
    ClassPositions,
    Table,
    WeightMap,
    blocks,
    linear,
    mlp,
    norm,
    patches,
    torch_attention,
)
from jaxrep.pretrained.tokenizers import find_open_clip_tokenizer

TOWER = dict(mlp_ratio=4.0, layers=12, norm_kwargs=None, ls_init_value=None)
VISION = dict(**TOWER, width=768, head_width=64, patch_size=16, image_size=224, no_ln_pre=False)
TEXT = dict(
    **TOWER,
    width=512,
    heads=8,
    context_length=77,
    vocab_size=49_408,
    no_causal_mask=False,
    pool_type="argmax",
    eos_id=2,
)
"""Defaults of open_clip_config.json."""

ONE_WAY = dict(
    act_kwargs=None, block_type=None, final_ln_after_pool=False, qk_norm=False, scaled_cosine_attn=False,
    scale_heads=False, scale_attn_inner=False, scale_attn=False, scale_fc=False, output_tokens=False,
)  # fmt: skip
VISION_ONE_WAY = dict(attentional_pool=False, pos_embed_type="learnable", pool_type="tok", timm_model_name=None)
TEXT_ONE_WAY = dict(embed_cls=False, proj_bias=False, proj_type="linear", hf_model_name=None)
"""Options that jaxrep's towers support with this value only."""

IGNORED = ("*attn_mask",)

BLOCKS = blocks(
    "transformer.resblocks.{layer}.",
    ("ln_1", "ln_2"),
    torch_attention("attn"),
    mlp("mlp.c_fc", "mlp.c_proj"),
    (WeightMap("ls_1.gamma", "scale1"), WeightMap("ls_2.gamma", "scale2")),
)

TEXT_TOWER: Table = (
    WeightMap("token_embedding.weight", "embedding"),
    WeightMap("positional_embedding", "positions"),
    *BLOCKS,
    *norm("ln_final", "norm"),
)


def image_table(patch: int, side: int) -> Table:
    """Return the table of the image tower."""
    grid = side // patch
    return (
        ClassPositions("class_embedding", positions="positional_embedding", grid=grid, fit=grid),
        *patches("conv1", patch),
        *norm("ln_pre", "embed_norm"),
        *BLOCKS,
        *norm("ln_post", "norm"),
    )


def read(source: Source) -> Architecture:
    """Read a folder with open_clip_config.json; text tensors may start with ``text.``."""
    config = source.config.part("model_cfg", {"quick_gelu": False})
    prefix = "text." if source.has("text.token_embedding.weight") else ""
    image, visual = _image(source, config)
    text = _with_projection(_text(source, config), config, f"{prefix}text_projection")
    return dual(source, image, text, (visual, prefix), config.whole("embed_dim"), LogitScale(), IGNORED)


def _with_projection(tower: Tower, model: Config, name: str) -> Tower:
    head = Linear(features=model.whole("embed_dim"))
    return dataclasses.replace(tower, head=head, projection=(WeightMap(name, "kernel"),))


def _image(source: Source, model: Config) -> tuple[Tower, str]:
    """Return the image tower, and what stands before the names of its tensors."""
    config = model.part("vision_cfg", VISION)
    if config.values.get("timm_model_name") in eva.ARCHITECTURES:
        return _eva(source, model, config), "visual.trunk."
    config.expect(**ONE_WAY, **VISION_ONE_WAY)
    side, patch = config.side("image_size"), config.side("patch_size")
    heads = config.whole("width") // config.whole("head_width")
    size = dict(_size(model, config), heads=heads, embed_norm=not config.flag("no_ln_pre"))
    tower = vit_tower(_transform(source, side), image_table(patch, side), patch, stem_bias=False, **size)
    return _with_projection(tower, model, "visual.proj"), "visual."


def _eva(source: Source, model: Config, config: Config) -> Tower:
    """Return an image tower of timm whose classifier is the projection (EVA-CLIP)."""
    config.expect(timm_proj=None, timm_pool="token")
    own = eva.ARCHITECTURES[config.values["timm_model_name"]]
    args = Config({**eva.DEFAULTS, **own, "global_pool": "token"}, config.file)
    tower = eva.read_tower(args, _transform(source, config.side("image_size")))
    head = Linear(features=model.whole("embed_dim"), bias=True)
    return dataclasses.replace(tower, head=head, projection=linear("visual.trunk.head", ""))


def _text(source: Source, model: Config) -> Tower:
    config = model.part("text_cfg", TEXT)
    config.expect(**ONE_WAY, **TEXT_ONE_WAY)
    ends = {"argmax": "highest", "eos": config.whole("eos_id"), "last": "never"}
    end, causal = ends[config.choice("pool_type", ends)], not config.flag("no_causal_mask")
    if not causal and end != "never":
        raise UsageError(
            f"{config.file}: with no_causal_mask open_clip reads padding as text, which is supported with pool_type "
            f"'last' only, and it is '{config.values['pool_type']}'"
        )
    return text_tower(
        source,
        config,
        TEXT_TOWER,
        length="context_length",
        find=functools.partial(find_open_clip_tokenizer, config=config),
        heads=config.whole("heads"),
        causal=causal,
        end=end,
        **_size(model, config),
    )


def _size(model: Config, config: Config) -> dict[str, Any]:
    return {
        "width": config.whole("width"),
        "depth": config.whole("layers"),
        "mlp_ratio": config.number("mlp_ratio"),
        "activation": "quick_gelu" if model.flag("quick_gelu") else "gelu",
        "norm_epsilon": config.part("norm_kwargs", {"eps": 1e-5}).number("eps"),
        "layer_scale": 0.0 if config.values["ls_init_value"] is None else config.number("ls_init_value"),
    }


def _transform(source: Source, side: int) -> ImageTransform:
    """Return the transform of ``preprocess_cfg``; open_clip's default is CLIP's."""
    clip = PixelNorm.clip()
    default = dict(mean=list(clip.mean), std=list(clip.std), interpolation="bicubic", resize_mode="shortest")
    config = source.config.part("preprocess_cfg", default)
    return ImageTransform(
        height=side,
        width=side,
        shorter=side if config.choice("resize_mode", ("shortest", "squash")) == "shortest" else 0,
        filter=config.choice("interpolation", ("bicubic", "bilinear")),
        half="even",
        pixels=config.pixel_norm(),
    )
