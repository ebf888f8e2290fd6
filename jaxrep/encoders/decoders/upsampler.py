"""Pictures at several scales from the tokens of all places (Noman et al. 2024, SatMAE++, arXiv:2403.05419, 3.2)."""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.image.stem import Stem
from jaxrep.encoders.layers import ACTIVATIONS, Dense, LayerNorm, Precision, compute_dtype
from jaxrep.patches import unpatchify
from jaxrep.spec import Count, NonNegative, Part, Range, execution, spec


class PictureTokens(NamedTuple):
    """Say of what the tokens are from which pictures are made."""

    width: int
    """Channels of a token."""
    stem: Stem
    """What made tokens of the encoder's pictures."""
    shape: tuple[int, ...]
    """Height, width and channels of those pictures."""


@spec
class Upsampler(Part):
    """Predict pictures of the tokens of all places, as large as the encoder's, and larger ones of this prediction.

    A token becomes the pixels of its patch by a linear map, that of its group of bands. Each doubling is a transposed
    convolution and a residual block, of whose features a convolution makes the picture.
    """

    doublings: Annotated[int, Range(1, 8)] = 2
    """Number of larger pictures, each of which is twice as large as the one before."""
    ratio: Count = 4
    """Channels of the features over those of a picture."""
    norm_epsilon: NonNegative = 1e-6
    """Added to the variance under the root of every norm."""
    dtype: Precision = "auto"
    """Type of activations and convolutions; auto: bfloat16 on accelerators, float32 on CPU."""
    remat: bool = execution(False)
    """Whether the backward pass computes each doubling again in place of keeping its features."""

    @property
    def scales(self) -> tuple[int, ...]:
        """Return the sizes of the pictures over that of the encoder's: 1, 2, 4."""
        return tuple(2**doubling for doubling in range(self.doublings + 1))

    def build(self, rngs: nnx.Rngs, *, inputs: PictureTokens) -> "UpsamplerModule":
        """Return the module.

        Raises:
            ValueError: the tokens are not those of pictures.
        """
        if len(inputs.stem.sides) != 2:
            raise ValueError(
                f"Upsampler makes pictures, and the encoder's patches have {len(inputs.stem.sides)} axes: take a stem "
                "whose patches have 2"
            )
        return UpsamplerModule(self, rngs, inputs)


class UpsamplerModule(nnx.Module):
    """Map tokens float [B,N,D] to pictures float32 [B,H,W,C], [B,2H,2W,C], and so on."""

    def __init__(self, spec: Upsampler, rngs: nnx.Rngs, inputs: PictureTokens):
        stem, channels = inputs.stem, inputs.shape[-1]
        self.sides, self.groups = stem.sides, stem.channel_groups(channels)
        self.grid = stem.grid(inputs.shape)[-2:]
        self.spec, width = spec, channels * spec.ratio
        sizes = [math.prod(stem.sides) * len(group) for group in self.groups]
        self.patches = nnx.List([Dense(rngs, (inputs.width,), (size,)) for size in sizes])
        self.widen = Dense(rngs, (channels,), (width,))
        self.norm = LayerNorm(width, spec.norm_epsilon)
        blocks = range(spec.doublings)
        self.blocks = nnx.List([Doubling(rngs, width, channels, spec.norm_epsilon) for _ in blocks])

    def __call__(self, tokens: Array) -> list[Array]:
        picture = self._picture(tokens)
        h = self.norm(ACTIVATIONS["gelu"](self.widen(picture)))
        pictures = [picture]
        for block in self.blocks:
            graph, params = nnx.split(block)

            def apply(params: Any, h: Array, graph: Any = graph) -> tuple[Array, Array]:
                return nnx.merge(graph, params)(h)

            h, larger = (jax.checkpoint(apply) if self.spec.remat else apply)(params, h)
            pictures.append(larger)
        return [picture.astype(jnp.float32) for picture in pictures]

    def _picture(self, tokens: Array) -> Array:
        """Return the picture [B,H,W,C] whose patches the tokens predict, each those of its group."""
        by_group = jnp.split(tokens.astype(compute_dtype(self.spec.dtype)), len(self.groups), axis=1)
        patches = [linear(group) for linear, group in zip(self.patches, by_group, strict=True)]
        bands = jnp.concatenate([unpatchify(patch, self.grid, self.sides) for patch in patches], axis=-1)
        return bands[..., np.argsort([band for group in self.groups for band in group])]


class Doubling(nnx.Module):
    """Double the height and width of features [B,H,W,D], and make a picture [B,2H,2W,C] of them.

    As in the released code: leaky rectifier of the normalized transposed convolution, and half of the second
    convolution's output in the residual block, after which a norm follows.
    """

    def __init__(self, rngs: nnx.Rngs, width: int, channels: int, epsilon: float):
        self.up = Convolution(rngs, width, width, 4)
        self.up_norm = LayerNorm(width, epsilon)
        self.first = Convolution(rngs, width, width, 3)
        self.second = Convolution(rngs, width, width, 3)
        self.norm = LayerNorm(width, epsilon)
        self.picture = Convolution(rngs, width, channels, 3)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = jax.nn.leaky_relu(self.up_norm(self.up(x, double=True)))
        x = self.norm(x + 0.5 * self.second(jax.nn.relu(self.first(x))))
        return x, self.picture(x)


class Convolution(nnx.Module):
    """Convolve with a bias, [B,H,W,inputs] -> [B,H,W,outputs], zeros outside. Kernels start uniform (Glorot)."""

    def __init__(self, rngs: nnx.Rngs, inputs: int, outputs: int, side: int):
        init = nnx.initializers.glorot_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (side, side, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Array, *, double: bool = False) -> Array:
        """Convolve x; with ``double`` the transposed convolution of stride 2, [B,2H,2W,outputs]."""
        kernel, layout = self.kernel[...].astype(x.dtype), ("NHWC", "HWIO", "NHWC")
        if double:
            y = jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=layout)
        else:
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return y + self.bias[...].astype(x.dtype)
