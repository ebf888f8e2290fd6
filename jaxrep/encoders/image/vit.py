"""Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), with the variants of contrastive pretraining."""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.image.stem import PatchStem, PixelNorm, Stem
from jaxrep.encoders.layers import compute_dtype, normal
from jaxrep.encoders.transformer import Transformer
from jaxrep.encoders.transformer_module import TransformerModule
from jaxrep.spec import spec


@spec
class ViT(Transformer):
    """Vision transformer. Presets are named by size and patch and take fields to change: ``ViT.b16(pool="mean")``."""

    rank: ClassVar[int] = 4

    stem: Stem = PatchStem()
    """What makes tokens of pixels."""
    pool: Literal["cls", "mean", "attention"] = "cls"
    """The class token (which only ``cls`` adds), the mean of the patches, or a learned query that attends to them."""
    positions: Literal["learned", "sincos"] = "learned"
    """Learned positions, or fixed sines and cosines of row and column (Chen et al. 2021, MoCo v3)."""
    any_size: bool = False
    """Images of other sizes are read too: learned positions are resized to their grid, as pictures are (bicubic)."""
    registers: int = 0
    """Learned tokens that are read by nobody (Darcet et al. 2024)."""
    patch_dropout: float = 0.0
    """Share of the patches that is left out in training, drawn for each image (Li et al. 2023, FLIP)."""
    pixels: PixelNorm = PixelNorm()
    """Normalization of the pixels."""

    @classmethod
    def ti16(cls, **changes: Any) -> Self:
        """ViT-Ti/16 (Touvron et al. 2021, DeiT): 5 M parameters."""
        return dataclasses.replace(cls(width=192, depth=12, heads=3), **changes)

    @classmethod
    def s16(cls, **changes: Any) -> Self:
        """ViT-S/16 (Touvron et al. 2021, DeiT): 22 M parameters."""
        return dataclasses.replace(cls(width=384, depth=12, heads=6), **changes)

    @classmethod
    def b32(cls, **changes: Any) -> Self:
        """ViT-B/32: 88 M parameters."""
        return dataclasses.replace(cls.b16(stem=PatchStem(patch=32)), **changes)

    @classmethod
    def b16(cls, **changes: Any) -> Self:
        """ViT-B/16: 86 M parameters."""
        return dataclasses.replace(cls(width=768, depth=12, heads=12), **changes)

    @classmethod
    def l14(cls, **changes: Any) -> Self:
        """ViT-L/14: 304 M parameters."""
        return dataclasses.replace(cls(width=1024, depth=24, heads=16, stem=PatchStem(patch=14)), **changes)

    @classmethod
    def h14(cls, **changes: Any) -> Self:
        """ViT-H/14: 632 M parameters."""
        return dataclasses.replace(cls(width=1280, depth=32, heads=16, stem=PatchStem(patch=14)), **changes)

    @classmethod
    def so400m14(cls, **changes: Any) -> Self:
        """The shape-optimized SoViT-400m/14 (Alabdulmohsin et al. 2023, table 1): 412 M parameters."""
        shape = cls(width=1152, depth=27, heads=16, mlp_ratio=4304 / 1152, stem=PatchStem(patch=14))
        return dataclasses.replace(shape, **changes)

    @classmethod
    def g14(cls, **changes: Any) -> Self:
        """ViT-g/14 (Zhai et al. 2022, Scaling Vision Transformers, table 2): 1.0 G parameters."""
        shape = cls(width=1408, depth=40, heads=16, mlp_ratio=6144 / 1408, stem=PatchStem(patch=14))
        return dataclasses.replace(shape, **changes)

    def as_clip(self) -> Self:
        """The same size with the details of CLIP's released code: a norm before the blocks, quick GELU, its pixels."""
        stem = dataclasses.replace(self.stem, bias=False) if isinstance(self.stem, PatchStem) else self.stem
        return dataclasses.replace(self, stem=stem, embed_norm=True, activation="quick_gelu", pixels=PixelNorm.clip())

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 <= self.patch_dropout < 1:
            yield f"patch_dropout is {self.patch_dropout}: it is a share from 0 to below 1"
        if self.registers < 0:
            yield f"registers is {self.registers}: it counts tokens, 0 or more"
        if self.positions == "sincos" and self.width % 4:
            yield f"width = {self.width} is no multiple of 4, which sin-cos positions ask for"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "VisionTransformer":
        return VisionTransformer(self, rngs, inputs)


class VisionTransformer(TransformerModule):
    """Images [B,H,W,C], uint8 or float in [0,1] -> features."""

    def __init__(self, spec: ViT, rngs: nnx.Rngs, inputs: Field):
        if len(inputs.shape) != 3:
            raise ValueError(
                f"a vision transformer reads images of shape (H, W, C), and its input has shape {inputs.shape}"
            )
        shape: tuple[int, int, int] = inputs.shape
        super().__init__(
            spec,
            rngs,
            pool=spec.pool,
            class_token=spec.pool == "cls",
            registers=spec.registers,
            drop=spec.patch_dropout,
        )
        self.shape, self.grid, self.pixels = shape, spec.stem.grid(shape), spec.pixels
        self.grid_of = spec.stem.grid if spec.any_size else None
        self.stem = spec.stem.build(rngs, inputs=shape, width=spec.width)
        learned = spec.positions == "learned"
        self.positions = normal(rngs, (self.grid[0] * self.grid[1], spec.width), 0.02) if learned else None

    def embed(self, x: Array) -> tuple[Array, Array, None]:
        """Images -> patches h [B,N,D], their positions [N,D], and None: every patch is real."""
        if x.shape[1:] != self.shape and self.grid_of is None:
            raise ValueError(f"images of shape {x.shape[1:]} reach an encoder that was built for {self.shape}")
        h = self.stem(self.pixels(x).astype(compute_dtype(self.dtype)))
        grid = self.grid if self.grid_of is None else self.grid_of((x.shape[1], x.shape[2], x.shape[3]))
        if self.positions is None:
            return h, jnp.asarray(sincos_positions(*grid, h.shape[-1])), None
        return h, resized(self.positions[...], self.grid, grid), None


def resized(positions: Array, grid: tuple[int, int], to: tuple[int, int]) -> Array:
    """Positions [h*w,D] of a grid (h,w) -> [H*W,D] of the grid ``to``, by cubic convolution with antialiasing."""
    if grid == to:
        return positions
    return jax.image.resize(positions.reshape(*grid, -1), (*to, positions.shape[1]), "cubic").reshape(to[0] * to[1], -1)


def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed positions [rows * columns, width], float32: sine and cosine of column and row, a quarter of the width each.

    Frequencies fall from 1 to 1/10000 (Chen et al. 2021, MoCo v3, arXiv:2104.02057).
    """
    frequency = 10_000.0 ** -np.linspace(0, 1, width // 4)
    y, x = (place.reshape(-1, 1) * frequency for place in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1).astype(np.float32)
