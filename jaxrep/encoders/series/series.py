"""Encoders of what comes in order in one dimension, as light curves and spectra, [B,L,C]."""

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import INFERENCE, Array, Field, StepContext
from jaxrep.encoders.base import Encoder, EncoderOutput
from jaxrep.encoders.layers import LayerNorm, dropout
from jaxrep.encoders.transformer import Transformer
from jaxrep.encoders.transformer_module import TransformerModule
from jaxrep.spec import spec


@spec
class SeriesTransformer(Transformer):
    """A transformer over the moments of a series, which a convolution around the ring of them embeds.

    The tower of Informer (Zhou et al. 2021, arXiv:2012.07436), with full attention in place of its sparse one: for the
    hundreds of moments for which it is used here that costs little, and nothing is drawn.
    """

    rank: ClassVar[int] = 3

    length: int
    """Number of moments L."""
    kernel: int = 3
    """Moments that the convolution sees; odd."""
    pool: Literal["mean", "flatten"] = "mean"
    """The mean of the real moments, or all of them side by side, zeros where there is none."""
    norm: Literal["pre", "post"] = "post"
    """As of every transformer; with post there is one more norm after all blocks."""

    @property
    def features(self) -> int:
        return self.width * (self.length if self.pool == "flatten" else 1)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.length < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            yield f"length is at least 1 and kernel odd, got {self.length} and {self.kernel}"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "SeriesModule":
        return SeriesModule(self, rngs, inputs)


class SeriesModule(TransformerModule):
    """Series float [B,L,C] -> features."""

    def __init__(self, spec: SeriesTransformer, rngs: nnx.Rngs, inputs: Field):
        if len(inputs.shape) != 2 or inputs.shape[0] != spec.length:
            raise ValueError(
                f"a series of {spec.length} moments is read as [B,{spec.length},C], and not {inputs.shape}"
            )
        super().__init__(spec, rngs, pool="mean")
        fan_in = spec.kernel * inputs.shape[1]
        self.kernel = nnx.Param(
            jax.random.normal(rngs.params(), (spec.kernel, inputs.shape[1], spec.width)) * (2 / fan_in) ** 0.5
        )
        self.last = LayerNorm(spec.width, spec.norm_epsilon) if spec.norm == "post" else None
        if spec.pool == "flatten":
            self.pool = flatten

    def embed(self, x: Array) -> tuple[Array, Array, None]:
        """Series [B,L,C] -> tokens h [B,L,D], positions [L,D]; all moments are real where the batch does not say."""
        reach = self.kernel.shape[0] // 2
        ring = jnp.concatenate([x[:, x.shape[1] - reach :], x, x[:, :reach]], axis=1) if reach else x
        h = jax.lax.conv_general_dilated(ring, self.kernel[...], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
        return h, sines(x.shape[1], h.shape[2]), None

    def _normed(self, h: Array) -> Array:
        return super()._normed(h) if self.last is None else self.last(h)


def flatten(tokens: Array, valid: Array | None) -> Array:
    """[B,N,D] -> [B,N*D], zeros where a token is not valid [B,N]."""
    tokens = tokens if valid is None else tokens * valid[..., None].astype(tokens.dtype)
    return tokens.reshape(len(tokens), -1)


def sines(length: int, width: int) -> Array:
    """Positions [L,D]: sine and cosine in turn, of wavelengths from 2 pi to 10,000 times that (Vaswani et al. 2017,
    section 3.5)."""
    rate = jnp.exp(jnp.arange(0, width, 2) * -(jnp.log(10_000.0) / width))
    angle = jnp.arange(length)[:, None] * rate
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=2).reshape(length, -1)[:, :width]


@spec
class SeriesConvolutions(Encoder):
    """Convolutions along a series, each but the last followed by a pooling; their output side by side.

    With its defaults the tower of spectra of GalSpecNet (Wu et al. 2024), as AstroM3 has it.
    """

    rank: ClassVar[int] = 3

    length: int
    """Number of moments L."""
    channels: tuple[int, ...] = (64, 64, 32, 32)
    """Channels after each convolution."""
    kernel: int = 3
    """Moments that a convolution sees; nothing is padded."""
    pool: int = 4
    """Moments of which the largest is taken."""
    dropout: float = 0.0
    """Share of the features that are dropped in training."""

    def lengths(self) -> Iterator[int]:
        """Moments after each convolution and its pooling."""
        length = self.length
        for i in range(len(self.channels)):
            length -= self.kernel - 1
            length = length if i == len(self.channels) - 1 else length // self.pool
            yield length

    @property
    def features(self) -> int:
        return list(self.lengths())[-1] * self.channels[-1]

    def problems(self) -> Iterator[str]:
        if not self.channels or min((*self.channels, self.kernel, self.pool)) < 1:
            yield f"channels, kernel and pool are at least 1, got {self.channels}, {self.kernel} and {self.pool}"
        elif min(self.lengths()) < 1:
            yield f"a series of {self.length} moments is too short for {len(self.channels)} convolutions"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        if len(inputs.shape) != 2 or inputs.shape[0] != self.length:
            raise ValueError(
                f"a series of {self.length} moments is read as [B,{self.length},C], and not {inputs.shape}"
            )
        return SeriesConvolutionsModule(self, rngs, inputs.shape[1])


class SeriesConvolutionsModule(nnx.Module):
    """Series float [B,L,C] -> features."""

    def __init__(self, spec: SeriesConvolutions, rngs: nnx.Rngs, channels: int):
        init = nnx.initializers.he_normal()
        ends = (channels, *spec.channels)
        self.kernels = nnx.List(
            [nnx.Param(init(rngs.params(), (spec.kernel, before, after))) for before, after in pairwise(ends)]
        )
        self.biases = nnx.List([nnx.Param(jnp.zeros(width)) for width in spec.channels])
        self.pool, self.dropout = spec.pool, spec.dropout

    def __call__(
        self,
        x: Array,
        *,
        valid: Any = None,
        masked: Any = None,
        intermediates: tuple[int, ...] = (),
        ctx: StepContext = INFERENCE,
    ) -> EncoderOutput:
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = jax.lax.conv_general_dilated(x, kernel[...], (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
            x = jax.nn.relu(x + bias[...])
            if i < len(self.kernels) - 1:
                window = (1, self.pool, 1)
                x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        keys = ctx.keys("dropout") if ctx.training and self.dropout else None
        return EncoderOutput(pooled=dropout(x.reshape(len(x), -1), self.dropout, keys), tokens=x)


@spec
class Perceptron(Encoder):
    """Dense layers over a row of numbers [B,C], each followed by an activation and dropout."""

    rank: ClassVar[int] = 2

    widths: tuple[int, ...] = (512, 512)
    """Width of each layer."""
    dropout: float = 0.0
    """Share of values that are dropped after each layer in training."""

    @property
    def features(self) -> int:
        return self.widths[-1]

    def problems(self) -> Iterator[str]:
        if not self.widths or min(self.widths) < 1:
            yield f"widths are at least 1, one at least, got {self.widths}"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        if len(inputs.shape) != 1 or inputs.classes is not None:
            raise ValueError(f"a perceptron reads rows of numbers [B,C], and its input is {dataclasses.asdict(inputs)}")
        return PerceptronModule(self, rngs, inputs.shape[0])


class PerceptronModule(nnx.Module):
    """Rows float [B,C] -> features."""

    def __init__(self, spec: Perceptron, rngs: nnx.Rngs, inputs: int):
        ends = (inputs, *spec.widths)
        init = nnx.initializers.he_normal()
        self.layers = nnx.List([nnx.Linear(a, b, kernel_init=init, rngs=rngs) for a, b in pairwise(ends)])
        self.dropout = spec.dropout

    def __call__(
        self,
        x: Array,
        *,
        valid: Any = None,
        masked: Any = None,
        intermediates: tuple[int, ...] = (),
        ctx: StepContext = INFERENCE,
    ) -> EncoderOutput:
        for i, layer in enumerate(self.layers):
            keys = ctx.keys(f"dropout/{i}") if ctx.training and self.dropout else None
            x = dropout(jax.nn.relu(layer(x)), self.dropout, keys)
        return EncoderOutput(pooled=x)
