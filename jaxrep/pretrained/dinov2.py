"""DINOv2 (Oquab et al. 2024, arXiv:2304.07193), with registers (Darcet et al. 2024, arXiv:2309.16588) or without."""

from jaxrep.batch import Field
from jaxrep.encoders.image.stem import PatchStem, PixelNorm
from jaxrep.encoders.image.vit import ViT
from jaxrep.pretrained.architecture import Architecture, Config, Source, Tower, single
from jaxrep.pretrained.mapping import Row, Table, linear, norm, under
from jaxrep.pretrained.vit import ATTENTION, stem

DEFAULTS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    mlp_ratio=4,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    image_size=224,
    patch_size=16,
    qkv_bias=True,
    use_swiglu_ffn=False,
    num_register_tokens=4,
)
"""What config.json may leave out."""

IGNORED = ("classifier.*",)
REGISTERS = "dinov2_with_registers"

BLOCK: Table = (
    *norm("norm1", "norm1"),
    *ATTENTION,
    Row("layer_scale1.lambda1", "scale1"),
    *norm("norm2", "norm2"),
    *linear("mlp.fc1", "mlp/up"),
    *linear("mlp.fc2", "mlp/down"),
    Row("layer_scale2.lambda1", "scale2"),
)

SWIGLU_BLOCK: Table = (
    *(row for row in BLOCK if not row.theirs.startswith("mlp.")),
    Row("mlp.weights_in.weight", ("mlp/gate/kernel", "mlp/up/kernel"), "(n o) i -> n i o"),
    Row("mlp.weights_in.bias", ("mlp/gate/bias", "mlp/up/bias"), "(n o) -> n o"),
    *linear("mlp.weights_out", "mlp/down"),
)
"""What is gated and the gate are one layer there."""


def table(patch: int, grid: int, fit: int, *, gated: bool, registers: bool) -> Table:
    """Positions of a grid of side ``grid`` are resized to one of side ``fit``, as the released code does."""
    return (
        *stem(patch, grid, fit, antialias=registers),
        Row("embeddings.mask_token", "mask_token", "1 d -> d"),
        Row("embeddings.register_tokens", "registers", "1 n d -> n d"),
        *under(SWIGLU_BLOCK if gated else BLOCK, "encoder.layer.{layer}.", "blocks/"),
        *norm("layernorm", "norm"),
    )


def read(source: Source) -> Architecture:
    """model_type ``dinov2`` or ``dinov2_with_registers``, of pictures as large as the folder's transform makes."""
    config = source.config.part("", {**DEFAULTS, **source.config.values})
    trained, patch = config.side("image_size"), config.side("patch_size")
    side = source.transform.height if source.transform else trained
    transform = source.pictures(side, PixelNorm.imagenet(), shorter=side)
    prefix = source.below("dinov2.", f"{REGISTERS}.")
    registers = config.values.get("model_type") == REGISTERS
    gated = config.flag("use_swiglu_ffn")
    encoder = ViT(
        **_size(config, gated),
        qkv_bias=config.flag("qkv_bias"),
        layer_scale=1.0,
        registers=config.whole("num_register_tokens") if registers else 0,
        mask_token=source.has(f"{prefix}embeddings.mask_token"),
        stem=PatchStem(patch=patch),
        pixels=transform.pixels,
    )
    rows = table(patch, trained // patch, side // patch, gated=gated, registers=registers)
    tower = Tower(encoder, Field((side, side, 3), "uint8"), rows, transform=transform)
    return single("image", tower, prefix, IGNORED)


def _size(config: Config, gated: bool) -> dict:
    """The MLP's width is told by its ratio; a gated one is two thirds of that, in eights (Shazeer 2020)."""
    width = config.whole("hidden_size")
    hidden = int(width * config.number("mlp_ratio"))
    if gated:
        hidden = -(-int(hidden * 2 / 3) // 8) * 8
    size = config.part("", {**config.values, "intermediate_size": hidden}).size()
    return {**size, "gated": True, "activation": "silu"} if gated else size
