"""open_clip's own layout of CLIP's towers (Ilharco et al. 2021, doi:10.5281/zenodo.5143773): open_clip_config.json."""

from jaxrep.batch import Field
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.errors import UsageError
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.pretrained.architecture import Architecture, Config, Source, Tower, dual
from jaxrep.pretrained.image_transform import ImageTransform, channels
from jaxrep.pretrained.mapping import ClassPositions, Row, Table, fused, linear, merged, norm, patches, under
from jaxrep.pretrained.tokenizers import find_tokenizer

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
"""What open_clip_config.json may leave out."""

ONE_WAY = dict(
    act_kwargs=None, block_type=None, final_ln_after_pool=False, qk_norm=False, scaled_cosine_attn=False,
    scale_heads=False, scale_attn_inner=False, scale_attn=False, scale_fc=False, output_tokens=False,
)  # fmt: skip
VISION_ONE_WAY = dict(attentional_pool=False, pos_embed_type="learnable", pool_type="tok", timm_model_name=None)
TEXT_ONE_WAY = dict(embed_cls=False, proj_bias=False, proj_type="linear", hf_model_name=None)
"""Choices that jaxrep's towers do not have."""

IGNORED = ("*attn_mask",)

BLOCKS: Table = under(
    (
        *norm("ln_1", "norm1"),
        *fused("attn.in_proj", "attention"),
        *merged("attn.out_proj", "attention/out"),
        Row("ls_1.gamma", "scale1"),
        *norm("ln_2", "norm2"),
        *linear("mlp.c_fc", "mlp/up"),
        *linear("mlp.c_proj", "mlp/down"),
        Row("ls_2.gamma", "scale2"),
    ),
    "transformer.resblocks.{layer}.",
    "blocks/",
)

TEXT_TOWER: Table = (
    Row("token_embedding.weight", "embedding"),
    Row("positional_embedding", "positions"),
    *BLOCKS,
    *norm("ln_final", "norm"),
)


def image_table(patch: int, side: int) -> Table:
    grid = side // patch
    token = ("class_token", "positions")
    return (
        ClassPositions("class_embedding", token, positions="positional_embedding", grid=grid, fit=grid),
        *patches("conv1", "stem/project", patch),
        *norm("ln_pre", "embed_norm"),
        *BLOCKS,
        *norm("ln_post", "norm"),
    )


def read(source: Source) -> Architecture:
    """A folder with open_clip_config.json, whose text tower lies below ``text.`` or not."""
    config = source.config.part("model_cfg", {"quick_gelu": False})
    below = "text." if source.has("text.token_embedding.weight") else ""
    image, text = _image(source, config), _text(source, config, below)
    return dual(source, image, text, ("visual.", below), config.whole("embed_dim"), LogitScale(), IGNORED)


def _image(source: Source, model: Config) -> Tower:
    config = model.part("vision_cfg", VISION)
    config.expect(**ONE_WAY, **VISION_ONE_WAY)
    side, patch, width = config.side("image_size"), config.side("patch_size"), config.whole("width")
    transform = _transform(source, side)
    encoder = ViT(
        **_size(model, config),
        heads=width // config.whole("head_width"),
        stem=PatchStem(patch=patch, bias=False),
        embed_norm=not config.flag("no_ln_pre"),
        pixels=transform.pixels,
    )
    head, projection = Linear(features=model.whole("embed_dim")), (Row("visual.proj", "kernel"),)
    field = Field((side, side, 3), "uint8")
    return Tower(encoder, field, image_table(patch, side), head, projection, transform=transform)


def _text(source: Source, model: Config, below: str) -> Tower:
    config = model.part("text_cfg", TEXT)
    config.expect(**ONE_WAY, **TEXT_ONE_WAY)
    ends = {"argmax": "highest", "eos": config.whole("eos_id"), "last": "never"}
    if (pool := config.values["pool_type"]) not in ends:
        raise UsageError(f"{config.file}: 'pool_type' is {pool!r}, and {', '.join(ends)} are known")
    encoder = TextTransformer(
        **_size(model, config), heads=config.whole("heads"), causal=not config.flag("no_causal_mask"), end=ends[pool]
    )
    head, projection = Linear(features=model.whole("embed_dim")), (Row(f"{below}text_projection", "kernel"),)
    field = Field((config.whole("context_length"),), "int32", config.whole("vocab_size"))
    return Tower(encoder, field, TEXT_TOWER, head, projection, tokenizer=find_tokenizer(source.folder, field))


def _size(model: Config, config: Config) -> dict:
    return {
        "width": config.whole("width"),
        "depth": config.whole("layers"),
        "mlp_ratio": config.number("mlp_ratio"),
        "activation": "quick_gelu" if model.flag("quick_gelu") else "gelu",
        "norm_epsilon": config.part("norm_kwargs", {"eps": 1e-5}).number("eps"),
        "layer_scale": 0.0 if config.values["ls_init_value"] is None else config.number("ls_init_value"),
    }


def _transform(source: Source, side: int) -> ImageTransform:
    """As ``preprocess_cfg`` says; open_clip's default is CLIP's."""
    clip = PixelNorm.clip()
    default = dict(mean=list(clip.mean), std=list(clip.std), interpolation="bicubic", resize_mode="shortest")
    config = source.config.part("preprocess_cfg", default)
    mode, names = config.values["resize_mode"], ("bicubic", "bilinear")
    if mode not in ("shortest", "squash") or (chosen := config.values["interpolation"]) not in names:
        raise UsageError(
            f"{config.file}: of preprocess_cfg, the resize_mode shortest or squash and the interpolation "
            f"{' or '.join(names)} are read, and they are {mode!r} and {config.values['interpolation']!r}"
        )
    mean, std = (channels(config.values, name, config.file) for name in ("mean", "std"))
    shorter, pixels = side if mode == "shortest" else 0, PixelNorm(mean=mean, std=std)
    return ImageTransform(height=side, width=side, shorter=shorter, filter=chosen, half="even", pixels=pixels)
