"""Convolutions over series such as spectra, [B,L,C]: the tower of GalSpecNet (Wu et al. 2024)."""

from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import DropRate, Encoder, EncoderInputs, EncoderOutput
from jaxrep.encoders.layers import dropout
from jaxrep.encoders.series.series_transformer import check_series, convolve
from jaxrep.spec import Count, spec


@spec
class SeriesConvolutions(Encoder):
    """Encode a series by convolutions, each but the last followed by max pooling; the output is flattened.

    The defaults are the tower of spectra of GalSpecNet (Wu et al. 2024), as AstroM3 uses it.
    """

    rank: ClassVar[int] = 3

    length: Count
    """Number of time steps L."""
    channels: tuple[Count, ...] = (64, 64, 32, 32)
    """Channels after each convolution."""
    kernel: Count = 3
    """Time steps that a convolution reads; there is no padding."""
    pool: Count = 4
    """Time steps of which pooling takes the maximum."""
    dropout: DropRate = 0.0
    """Share of the features that training drops."""

    def lengths(self) -> Iterator[int]:
        """Yield the number of time steps after each convolution and its pooling."""
        length = self.length
        for i in range(len(self.channels)):
            length -= self.kernel - 1
            length = length if i == len(self.channels) - 1 else length // self.pool
            yield length

    @property
    def features(self) -> int:
        return list(self.lengths())[-1] * self.channels[-1]

    def problems(self) -> Iterator[str]:
        if min(self.lengths(), default=0) < 1:
            yield f"a series of {self.length} time steps needs one convolution or more, {len(self.channels)} do not fit"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        check_series(inputs, self.length)
        return SeriesConvolutionsModule(self, rngs, inputs.shape[1])


class SeriesConvolutionsModule(nnx.Module):
    """Map series float [B,L,C] to features."""

    def __init__(self, spec: SeriesConvolutions, rngs: nnx.Rngs, channels: int):
        init = nnx.initializers.he_normal()
        shapes = [(spec.kernel, before, after) for before, after in pairwise((channels, *spec.channels))]
        self.kernels = nnx.List([nnx.Param(init(rngs.params(), shape)) for shape in shapes])
        self.biases = nnx.List([nnx.Param(jnp.zeros(width)) for width in spec.channels])
        self.pool, self.dropout = spec.pool, spec.dropout

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        x = inputs.x
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = jax.nn.relu(convolve(x, kernel[...]) + bias[...])
            if i < len(self.kernels) - 1:
                window = (1, self.pool, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        keys = inputs.keys("dropout", self.dropout)
        return EncoderOutput(pooled=dropout(x.reshape(len(x), -1), self.dropout, keys), tokens=x)
