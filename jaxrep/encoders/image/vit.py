"""The vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), with variants used in contrastive pretraining."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Literal, Self

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import DropRate, EncoderInputs, preset
from jaxrep.encoders.image.stem import PatchStem, PixelNorm, Stem, check_image
from jaxrep.encoders.layers import compute_dtype, normal
from jaxrep.encoders.positions import (
    AxialRotary,
    Grid,
    relative_index,
    relative_rows,
    resize_grid,
    sincos_positions,
    sine_problems,
)
from jaxrep.encoders.transformer import Transformer, TransformerModule
from jaxrep.spec import Count, Natural, spec

DINOV3: dict[str, Any] = dict(
    positions="none",
    rotary=AxialRotary(rescale=2.0),
    registers=4,
    key_bias=False,
    layer_scale=1e-5,
    pixels=PixelNorm.imagenet(),
)
"""What all vision transformers of DINOv3 share (Simeoni et al. 2025, arXiv:2508.10104, section 3.2, released code)."""

EVA02: dict[str, Any] = dict(
    rotary=AxialRotary(base=10_000.0, normalized=False, reference=16),
    key_bias=False,
    gated=True,
    activation="silu",
    inner_norms=("attention", "mlp"),
    norm_epsilon=1e-6,
    pixels=PixelNorm.clip(),
)
"""What the image towers of EVA-02-CLIP share (Sun et al. 2023, EVA-CLIP, arXiv:2303.15389, in timm's models/eva.py)."""


@spec
class ViT(Transformer):
    """Encode images by a vision transformer, and series or volumes by a stem whose patches have as many axes.

    Presets take fields to change: ``ViT.b16(pool="mean")``.
    """

    stem: Stem = PatchStem()
    """How pixels become tokens."""
    pool: Literal["cls", "mean", "attention"] = "cls"
    """The class token (``cls`` adds one), the mean of the patches, or a learned query that attends to them."""
    class_token: bool = False
    """Whether a class token lies before the patches though another ``pool`` is taken (MAE's fine-tuned encoders)."""
    positions: Literal["learned", "sincos", "relative", "none"] = "learned"
    """Learned positions, fixed sines and cosines of row and column (Chen et al. 2021, MoCo v3), learned biases of the
    attention logits by the offset of two patches, which all blocks share (Bao et al. 2022, BEiT), or none."""
    sine_widths: tuple[Count, ...] = ()
    """Channels of the sines and cosines of each axis of the tokens' grid; empty: an equal share of the width each."""
    sine_endpoint: bool = True
    """Whether the lowest frequency of the sines is 1/10000 (big_vision), or the next one would be (MoCo v3, MAE)."""
    pool_first: bool = False
    """Whether the last norm is that of the pooled features, and not of the tokens (open_clip's final_ln_after_pool)."""
    any_size: bool = False
    """Whether images of other sizes are read too: learned positions are resized to their grid (bicubic)."""
    registers: Natural = 0
    """Learned tokens that are not part of the output (Darcet et al. 2024)."""
    patch_dropout: DropRate = 0.0
    """Share of the patches that training drops, drawn per image (Li et al. 2023, FLIP)."""
    pixels: PixelNorm = PixelNorm()
    """Normalization of the pixels."""

    ti16 = preset("ViT-Ti/16 (Touvron et al. 2021, DeiT): 5 M parameters", width=192, depth=12, heads=3)
    s16 = preset("ViT-S/16 (Touvron et al. 2021, DeiT): 22 M parameters", width=384, depth=12, heads=6)
    b32 = preset("ViT-B/32: 88 M parameters", width=768, depth=12, heads=12, stem=PatchStem(patch=32))
    b16 = preset("ViT-B/16: 86 M parameters", width=768, depth=12, heads=12)
    l14 = preset("ViT-L/14: 304 M parameters", width=1024, depth=24, heads=16, stem=PatchStem(patch=14))
    h14 = preset("ViT-H/14: 632 M parameters", width=1280, depth=32, heads=16, stem=PatchStem(patch=14))
    so400m14 = preset(
        "the shape-optimized SoViT-400m/14 (Alabdulmohsin et al. 2023, table 1): 412 M parameters",
        **dict(width=1152, depth=27, heads=16, mlp_ratio=4304 / 1152, stem=PatchStem(patch=14)),
    )
    g14 = preset(
        "ViT-g/14 (Zhai et al. 2022, Scaling Vision Transformers, table 2): 1.0 G parameters",
        **dict(width=1408, depth=40, heads=16, mlp_ratio=6144 / 1408, stem=PatchStem(patch=14)),
    )
    dinov3_s16 = preset("DINOv3's ViT-S/16: 21 M parameters", width=384, depth=12, heads=6, **DINOV3)
    dinov3_b16 = preset("DINOv3's ViT-B/16: 86 M parameters", width=768, depth=12, heads=12, **DINOV3)
    dinov3_l16 = preset("DINOv3's ViT-L/16: 303 M parameters", width=1024, depth=24, heads=16, **DINOV3)
    dinov3_h16plus = preset(
        "DINOv3's ViT-H+/16: 840 M parameters",
        **dict(DINOV3, width=1280, depth=32, heads=20, gated=True, activation="silu"),
    )

    eva02_b16 = preset(
        "EVA-02-CLIP's ViT-B/16: 86 M parameters", width=768, depth=12, heads=12, mlp_ratio=2048 / 768, **EVA02
    )
    eva02_l14 = preset(
        "EVA-02-CLIP's ViT-L/14: 303 M parameters",
        **dict(EVA02, width=1024, depth=24, heads=16, mlp_ratio=2730 / 1024, stem=PatchStem(patch=14)),
    )

    @property
    def rank(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.stem.sides) + 2

    @property
    def overlaps(self) -> bool:
        return self.stem.overlaps

    @property
    def tells_places(self) -> bool:
        return self.positions != "none" or self.overlaps or bool(self.rotary or self.local)

    def as_clip(self) -> Self:
        """Return the same size with the details of CLIP's code: a norm before the blocks, quick GELU, CLIP's pixels."""
        stem = dataclasses.replace(self.stem, bias=False) if isinstance(self.stem, PatchStem) else self.stem
        return dataclasses.replace(self, stem=stem, embed_norm=True, activation="quick_gelu", pixels=PixelNorm.clip())

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.positions == "sincos" and not self.sine_widths and self.width % 4:
            yield f"width = {self.width} is not a multiple of 4, which sin-cos positions need"
        yield from sine_problems(self.sine_widths, self.width)
        if self.sine_widths and self.positions != "sincos":
            yield f'sine_widths are those of positions = "sincos", and positions = "{self.positions}"'
        if not self.sine_endpoint and self.positions != "sincos":
            yield f'sine_endpoint is that of positions = "sincos", and positions = "{self.positions}"'
        if self.positions == "relative" and self.any_size:
            yield 'positions = "relative" are those of one grid: they cannot have any_size = True'
        if self.pool_first and self.norm == "post":
            yield 'pool_first = True needs norm = "pre": with "post" there is no last norm'

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "VisionTransformer":
        return VisionTransformer(self, rngs, inputs)


class VisionTransformer(TransformerModule):
    """Map images [B,H,W,C] or other arrays [B,...,C], uint8 or float in [0,1], to features."""

    spec: ViT

    def __init__(self, spec: ViT, rngs: nnx.Rngs, inputs: Field):
        shape, axes = tuple(inputs.shape), len(spec.stem.sides)
        if axes == 2:
            check_image(inputs, "a vision transformer")
        elif len(shape) != axes + 1:
            who = f"a vision transformer with patches of {' x '.join(map(str, spec.stem.sides))}"
            raise ValueError(f"{who} reads arrays with {axes} axes before their channels, and its input has {shape}")
        cls, drop = spec.pool == "cls" or spec.class_token, spec.patch_dropout
        super().__init__(spec, rngs, pool=spec.pool, class_token=cls, registers=spec.registers, drop=drop)
        self.shape, self.pixels = shape, spec.pixels
        self.grid = grid = spec.stem.grid(shape)
        self.stem = spec.stem.build(rngs, inputs=shape, width=spec.width)
        learned = spec.positions == "learned"
        std = spec.width**-0.5  # CLIP's released code
        self.positions = normal(rngs, (math.prod(grid), spec.width), std) if learned else None
        relative = spec.positions == "relative"
        self.relative = normal(rngs, (relative_rows(grid), spec.heads), 0.02) if relative else None

    def embed(self, x: Array) -> tuple[Array, Array, None]:
        """Return patches h [B,N,D], their positions [N,D], and None: every patch is real."""
        shape = x.shape[1:]
        if shape != self.shape and not self.spec.any_size:
            raise ValueError(f"the encoder was built for images of shape {self.shape}, got {shape}")
        h = self.stem(self.pixels(x).astype(compute_dtype(self.spec.dtype)))
        grid = self._grid_of(x)
        if self.positions is not None:
            return h, resize_grid(self.positions[...], self.spec.stem.grid(self.shape), grid), None
        if self.spec.positions != "sincos":
            return h, jnp.zeros(()), None
        return h, jnp.asarray(self._sines(grid)), None

    def _sines(self, grid: Grid) -> Any:
        spec = self.spec
        return sincos_positions(grid, spec.width, endpoint=spec.sine_endpoint, widths=spec.sine_widths)

    def embed_inputs(self, inputs: EncoderInputs) -> tuple[Array, Array, Array | None, Grid | None]:
        return *self.embed(inputs.x), self._grid_of(inputs.x)

    def relative_table(self, grid: Grid) -> tuple[Array, Any] | None:
        return None if self.relative is None else (self.relative[...], relative_index(grid, self._prefix))

    def _normed(self, h: Array) -> Array:
        return h if self.spec.pool_first else super()._normed(h)

    def _pooled(self, h: Array, valid: Array | None) -> Array:
        pooled = super()._pooled(h, valid)
        return super()._normed(pooled) if self.spec.pool_first else pooled

    def _grid_of(self, x: Array) -> Grid:
        """Return the patches along each axis of images [B,H,W,C]."""
        return self.spec.stem.grid(x.shape[1:] if self.spec.any_size else self.shape)
