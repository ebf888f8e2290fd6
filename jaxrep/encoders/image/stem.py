"""The normalization of pixels, and the stems that map an image, or an array of another number of axes, to tokens."""

import abc
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar, Self

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import Width
from jaxrep.encoders.layers import ACTIVATIONS, Activation, Dense
from jaxrep.patches import Patch, patchify
from jaxrep.spec import Count, Finite, Natural, Positive, spec


@spec
class PixelNorm:
    """Normalize each channel: (pixel - mean) / std, with pixels in [0,1]."""

    mean: tuple[Finite, ...] = (0.5, 0.5, 0.5)
    """Mean of each channel."""
    std: tuple[Positive, ...] = (0.5, 0.5, 0.5)
    """Standard deviation of each channel."""

    @classmethod
    def half(cls) -> Self:
        """Return the normalization to [-1,1]."""
        return cls()

    @classmethod
    def imagenet(cls) -> Self:
        """Return the statistics of ImageNet."""
        return cls(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    @classmethod
    def clip(cls) -> Self:
        """Return the statistics of CLIP's training images."""
        return cls(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))

    def problems(self) -> Iterator[str]:
        if len(self.mean) != len(self.std):
            yield f"mean has {len(self.mean)} channels and std {len(self.std)}: they have to be as many"

    def __call__(self, x: Array) -> Array:
        """Map images [B,H,W,C] or other arrays [B,...,C], uint8 or float in [0,1], to float32."""
        if x.shape[-1] != len(self.mean):
            raise ValueError(
                f"images of shape {x.shape} have {x.shape[-1]} channels and the pixel normalization {len(self.mean)}: "
                "give it a mean and a std for each channel"
            )
        scale = 255.0 if jnp.issubdtype(x.dtype, jnp.integer) else 1.0
        mean, std = jnp.array(self.mean, jnp.float32) * scale, jnp.array(self.std, jnp.float32) * scale
        return (x.astype(jnp.float32) - mean) / std


@spec
class Stem(abc.ABC):
    """Declare how an image becomes tokens (abstract).

    Some stems read arrays of another number of axes before the channels: series, volumes.
    """

    overlaps: ClassVar[bool] = False
    """Whether a token reads pixels of its neighbors."""

    @property
    @abc.abstractmethod
    def sides(self) -> tuple[int, ...]:
        """Return the pixels from one token to the next along each axis of the input before its channels."""

    def channel_groups(self, channels: int) -> tuple[tuple[int, ...], ...]:
        """Return the channels of which the tokens of a place are made, a group for each of them."""
        return (tuple(range(channels)),)

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, *, inputs: tuple[int, ...], width: int) -> nnx.Module:
        """Return a module that maps arrays [B,*inputs] to tokens [B,N,width], row by row."""

    @abc.abstractmethod
    def grid(self, inputs: tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens along each axis, for an array of shape ``inputs`` (for an image H, W, C)."""


def check_image(inputs: Field, who: str) -> None:
    """Check that a field holds images (H,W,C). Raises ValueError."""
    if len(inputs.shape) != 3:
        raise ValueError(f"{who} reads images of shape (H, W, C), and its input has shape {inputs.shape}")


@spec
class PatchStem(Stem):
    """Map patches that do not overlap linearly (Dosovitskiy et al. 2021, section 3.1)."""

    patch: Patch = 16
    """Side of a square patch of an image in pixels, or a side for each axis of another array, before its channels."""
    bias: bool = True
    """Whether the map has a bias (CLIP's has none)."""

    @property
    def sides(self):
        return _sides(self.patch)

    def problems(self) -> Iterator[str]:
        yield from _patch_problems(self.patch)

    def build(self, rngs, *, inputs, width):
        self.grid(inputs)
        return Patches(rngs, inputs[-1], self.sides, width, bias=self.bias)

    def grid(self, inputs):
        return _grid(inputs[:-1], self.sides)


@spec
class BandsStem(Stem):
    """Map the patches of each group of channels to tokens of its own (Cong et al. 2022, SatMAE, arXiv:2207.08051).

    The tokens lie on a grid whose first axis is the groups: those of the first group come first, row by row.
    """

    groups: tuple[tuple[Natural, ...], ...]
    """Channels (bands) of each group, from 0; each channel is in one group."""
    patch: Patch = 8
    """Side of a square patch of an image in pixels, or a side for each axis of another array, before its channels."""
    bias: bool = True
    """Whether the maps have a bias."""

    @property
    def sides(self):
        return _sides(self.patch)

    def problems(self) -> Iterator[str]:
        yield from _patch_problems(self.patch)
        bands = sorted(band for group in self.groups for band in group)
        if not all(self.groups) or not bands:
            yield f"groups are of one band at least, got {self.groups}"
        if twice := sorted({one for one, other in pairwise(bands) if one == other}):
            yield f"groups name the bands {twice} more than once: put each into one group"
        elif missing := [band for band, named in enumerate(bands) if band != named]:
            yield f"groups leave out the band {missing[0]}: put each band from 0 into one group"

    def channel_groups(self, channels):
        if (bands := sum(map(len, self.groups))) != channels:
            raise ValueError(
                f"the groups of BandsStem have {bands} bands, and its input has {channels} channels: name each channel "
                "in one group"
            )
        return self.groups

    def build(self, rngs, *, inputs, width):
        self.grid(inputs)
        return BandPatches(self, rngs, width)

    def grid(self, inputs):
        return len(self.channel_groups(inputs[-1])), *_grid(inputs[:-1], self.sides)


@spec
class ConvStem(Stem):
    """Apply 3 x 3 convolutions of stride 2 before the patches (Xiao et al. 2021, arXiv:2106.14881, without norms)."""

    overlaps: ClassVar[bool] = True

    channels: tuple[Width, ...] = (32, 64)
    """Output channels of each convolution."""
    patch: Count = 4
    """Side of a patch, in pixels of the last convolution's output."""
    activation: Activation = "relu"
    """Activation after each convolution."""

    def problems(self) -> Iterator[str]:
        if not self.channels:
            yield "channels needs one convolution at least"

    @property
    def sides(self):
        return (self.patch * 2 ** len(self.channels),) * 2

    def build(self, rngs, *, inputs, width):
        self.grid(inputs)
        return Convolutions(self, rngs, inputs[2], width)

    def grid(self, inputs):
        size = [math.ceil(side / 2 ** len(self.channels)) for side in inputs[:-1]]
        after = f" ({size[0]} x {size[1]} after convolutions)"
        return _grid(inputs[:-1], (self.patch, self.patch), size, after)


def _sides(patch: Patch) -> tuple[int, ...]:
    return (patch, patch) if isinstance(patch, int) else tuple(patch)


def _patch_problems(patch: Patch) -> Iterator[str]:
    if not _sides(patch):
        yield "patch needs a side for one axis at least"


def _grid(axes: Sequence[int], sides: Sequence[int], size: Sequence[int] = (), after: str = "") -> tuple[int, ...]:
    """Return the patches along each axis, of an array or of its ``size`` after something. Raises ValueError."""
    size = size or axes
    if any(pixels % side for pixels, side in zip(size, sides, strict=True)):
        shown, patches = (" x ".join(map(str, numbers)) for numbers in (axes, sides))
        what = f"an image of {shown} pixels" if len(axes) == 2 else f"an array of {shown}"
        raise ValueError(f"{what}{after} does not split into patches of {patches}: change the image size or the patch")
    return tuple(pixels // side for pixels, side in zip(size, sides, strict=True))


class Patches(nnx.Module):
    """Map patches, [B,H,W,C] -> [B,N,D]. The kernel [P*P*C,D] reads a patch by row, column and channel.

    Arrays may have another number of axes before the channels, as ``sides`` of a patch have.
    """

    def __init__(self, rngs: nnx.Rngs, channels: int, sides: tuple[int, ...], width: int, *, bias: bool = True):
        self.sides = sides
        self.project = Dense(rngs, (math.prod(sides) * channels,), (width,), bias=bias)

    def __call__(self, x: Array) -> Array:
        return self.project(patchify(x, self.sides))


class BandPatches(nnx.Module):
    """Map patches of groups of channels, [B,H,W,C] -> [B,G*N,D], the first group first."""

    def __init__(self, spec: BandsStem, rngs: nnx.Rngs, width: int):
        self.groups = spec.groups
        sizes = map(len, spec.groups)
        self.patches = nnx.List([Patches(rngs, size, spec.sides, width, bias=spec.bias) for size in sizes])

    def __call__(self, x: Array) -> Array:
        groups = zip(self.groups, self.patches, strict=True)
        return jnp.concatenate([patches(x[..., list(bands)]) for bands, patches in groups], axis=1)


class Convolutions(nnx.Module):
    """Apply strided convolutions and then patches, [B,H,W,C] -> [B,N,D]."""

    def __init__(self, spec: ConvStem, rngs: nnx.Rngs, inputs: int, width: int):
        self.activation = spec.activation
        ends = pairwise((inputs, *spec.channels))
        self.convolutions = nnx.List([Dense(rngs, (3, 3, n), (m,)) for n, m in ends])
        self.patches = Patches(rngs, spec.channels[-1], (spec.patch, spec.patch), width)

    def __call__(self, x: Array) -> Array:
        for convolution in self.convolutions:
            x = ACTIVATIONS[self.activation](convolution(neighborhoods(x)))
        return self.patches(x)


def neighborhoods(x: Array) -> Array:
    """Return the 3 x 3 pixels under a convolution of stride 2, zeros outside, [B,H,W,C] -> [B,H/2,W/2,3,3,C].

    The convolution is then a product of matrices, whose gradients are faster on CPU than those of XLA's convolution.
    """
    height, width = (math.ceil(side / 2) for side in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = jnp.stack([x[:, i : i + 2 * height - 1 : 2] for i in range(3)], axis=3)
    return jnp.stack([rows[:, :, j : j + 2 * width - 1 : 2] for j in range(3)], axis=4)
