"""DINOv2 (Oquab et al. 2024, arXiv:2304.07193), with registers (Darcet et al. 2024, arXiv:2309.16588) or without."""

from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.pretrained.architecture import Architecture, Source, single, vit_tower
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.mapping import Table, WeightMap, blocks, linear, mlp, norm
from jaxrep.pretrained.vit import ATTENTION, DEFAULTS, embedding_table

DINOV2 = DEFAULTS | dict(mlp_ratio=4, layer_norm_eps=1e-6, use_swiglu_ffn=False, num_register_tokens=4)
"""Defaults of config.json."""

IGNORED = ("classifier.*",)
REGISTERS = "dinov2_with_registers"

SCALES: Table = (WeightMap("layer_scale1.lambda1", "scale1"), WeightMap("layer_scale2.lambda1", "scale2"))

SWIGLU: Table = (
    WeightMap("mlp.weights_in.weight", ("mlp/gate/kernel", "mlp/up/kernel"), "(n o) i -> n i o"),
    WeightMap("mlp.weights_in.bias", ("mlp/gate/bias", "mlp/up/bias"), "(n o) -> n o"),
    *linear("mlp.weights_out", "mlp/down"),
)
"""Gated MLP, whose gate and values are one layer in the checkpoint."""


def table(patch: int, grid: int, fit: int, *, gated: bool, registers: bool) -> Table:
    """Return the table; positions of a grid of side ``grid`` are resized to ``fit``, as in the released code."""
    feed_forward = SWIGLU if gated else mlp("mlp.fc1", "mlp.fc2")
    return (
        *embedding_table(patch, grid, fit, antialias=registers),
        WeightMap("embeddings.mask_token", "mask_token", "1 d -> d"),
        WeightMap("embeddings.register_tokens", "registers", "1 n d -> n d"),
        *blocks("encoder.layer.{layer}.", ("norm1", "norm2"), ATTENTION, SCALES, feed_forward),
        *norm("layernorm", "norm"),
    )


def read(source: Source) -> Architecture:
    """Read model_type ``dinov2`` or ``dinov2_with_registers``, for the image size of the folder's transform."""
    config = source.config.with_defaults(DINOV2)
    trained, patch = config.side("image_size"), config.side("patch_size")
    side = source.transform.height if source.transform else trained
    transform = source.square_transform(side, PixelNorm.imagenet(), shorter=side)
    prefix = source.prefix("dinov2.", f"{REGISTERS}.")
    registers, gated = config.values.get("model_type") == REGISTERS, config.flag("use_swiglu_ffn")
    tower = vit_tower(
        transform,
        table(patch, trained // patch, side // patch, gated=gated, registers=registers),
        patch,
        qkv_bias=config.flag("qkv_bias"),
        layer_scale=1.0,
        registers=config.whole("num_register_tokens") if registers else 0,
        mask_token=source.has(f"{prefix}embeddings.mask_token"),
        **_size(config, gated),
    )
    return single("image", tower, prefix, IGNORED)


def _size(config: Config, gated: bool) -> dict:
    """Return the size; a gated MLP has 2/3 of the hidden width, rounded up to a multiple of 8 (Shazeer 2020)."""
    hidden = int(config.whole("hidden_size") * config.number("mlp_ratio"))
    if gated:
        hidden = -(-int(hidden * 2 / 3) // 8) * 8
    size = Config({**config.values, "intermediate_size": hidden}, config.file).size()
    return {**size, "gated": True, "activation": "silu"} if gated else size
