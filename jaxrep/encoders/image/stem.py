"""The normalization of pixels, and the stems that map an image to tokens."""

import abc
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Self

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import Width
from jaxrep.encoders.layers import ACTIVATIONS, Activation, Dense
from jaxrep.spec import Count, Finite, Positive, spec


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
        """Map images [B,H,W,C], uint8 or float in [0,1], to float32."""
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
    """Declare how an image becomes tokens (abstract)."""

    overlaps: ClassVar[bool] = False
    """Whether a token reads pixels of its neighbors."""

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, *, inputs: tuple[int, int, int], width: int) -> nnx.Module:
        """Return a module that maps images [B,*inputs] to tokens [B,N,width], row by row."""

    @abc.abstractmethod
    def grid(self, inputs: tuple[int, int, int]) -> tuple[int, int]:
        """Return the rows and columns of tokens of an image of shape ``inputs`` (H,W,C)."""


def check_image(inputs: Field, who: str) -> None:
    """Check that a field holds images (H,W,C). Raises ValueError."""
    if len(inputs.shape) != 3:
        raise ValueError(f"{who} reads images of shape (H, W, C), and its input has shape {inputs.shape}")


@spec
class PatchStem(Stem):
    """Map square patches that do not overlap linearly (Dosovitskiy et al. 2021, section 3.1)."""

    patch: Count = 16
    """Side of a patch in pixels."""
    bias: bool = True
    """Whether the map has a bias (CLIP's has none)."""

    def build(self, rngs, *, inputs, width):
        self.grid(inputs)
        return Patches(rngs, inputs[2], self.patch, width, bias=self.bias)

    def grid(self, inputs):
        return _grid(inputs[:2], self.patch, f"an image of {inputs[0]} x {inputs[1]} pixels")


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

    def build(self, rngs, *, inputs, width):
        self.grid(inputs)
        return Convolutions(self, rngs, inputs[2], width)

    def grid(self, inputs):
        size = [math.ceil(side / 2 ** len(self.channels)) for side in inputs[:2]]
        return _grid(
            size, self.patch, f"an image of {inputs[0]} x {inputs[1]} pixels ({size[0]} x {size[1]} after convolutions)"
        )


def _grid(size, patch: int, what: str) -> tuple[int, int]:
    if size[0] % patch or size[1] % patch:
        raise ValueError(f"{what} does not split into patches of {patch} x {patch}: change the image size or the patch")
    return size[0] // patch, size[1] // patch


class Patches(nnx.Module):
    """Map patches, [B,H,W,C] -> [B,N,D]. The kernel [P*P*C,D] reads a patch by row, column and channel."""

    def __init__(self, rngs: nnx.Rngs, channels: int, patch: int, width: int, *, bias: bool = True):
        self.patch = patch
        self.project = Dense(rngs, (patch * patch * channels,), (width,), bias=bias)

    def __call__(self, x: Array) -> Array:
        return self.project(rearrange(x, "b (h p) (w q) c -> b (h w) (p q c)", p=self.patch, q=self.patch))


class Convolutions(nnx.Module):
    """Apply strided convolutions and then patches, [B,H,W,C] -> [B,N,D]."""

    def __init__(self, spec: ConvStem, rngs: nnx.Rngs, inputs: int, width: int):
        self.activation = spec.activation
        ends = pairwise((inputs, *spec.channels))
        self.convolutions = nnx.List([Dense(rngs, (3, 3, n), (m,)) for n, m in ends])
        self.patches = Patches(rngs, spec.channels[-1], spec.patch, width)

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
