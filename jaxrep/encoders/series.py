"""Encoders of series [B,L,C], such as light curves and spectra, and of vectors [B,C], such as measurements."""

import dataclasses
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import DropRate, Encoder, EncoderInputs, EncoderOutput, Width
from jaxrep.encoders.layers import ACTIVATIONS, Activation, dropout
from jaxrep.encoders.positions import sines
from jaxrep.encoders.transformer import Transformer, TransformerModule
from jaxrep.spec import Count, spec


@spec
class SeriesTransformer(Transformer):
    """Encode the time steps of a series by a transformer, after a circular convolution that embeds them.

    The tower of Informer (Zhou et al. 2021, arXiv:2012.07436), with full attention in place of its sparse one: at the
    few hundred steps for which it is used here full attention costs little and draws nothing.
    """

    rank: ClassVar[int] = 3

    length: Count
    """Number of time steps L."""
    kernel: Count = 3
    """Time steps that the convolution reads; odd."""
    pool: Literal["mean", "flatten"] = "mean"
    """The mean of the real time steps, or all of them concatenated, with zeros where a step is not real."""
    norm: Literal["pre", "post"] = "post"
    """What a block normalizes: the inputs of its branches (pre), or the sums (post). A norm follows all blocks."""
    positions: Literal["sines", "none"] = "sines"
    """Fixed sines and cosines of the time step, or none: then only ``rotary`` and the convolution tell the order."""

    @property
    def features(self) -> int:
        return self.width * (self.length if self.pool == "flatten" else 1)

    @property
    def overlaps(self) -> bool:
        return self.kernel > 1

    @property
    def tells_places(self) -> bool:
        return self.positions != "none" or self.overlaps or bool(self.rotary or self.local)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.kernel % 2 == 0:
            yield f"kernel is odd, got {self.kernel}"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "SeriesModule":
        return SeriesModule(self, rngs, inputs)


def check_series(inputs: Field, length: int) -> None:
    """Check that a field is a series of ``length`` time steps, [B,L,C]. Raises ValueError."""
    if len(inputs.shape) != 2 or inputs.shape[0] != length:
        raise ValueError(f"a series of {length} time steps has shape [B,{length},C], got [B,...] of {inputs.shape}")


class SeriesModule(TransformerModule):
    """Map series float [B,L,C] to features."""

    spec: SeriesTransformer

    def __init__(self, spec: SeriesTransformer, rngs: nnx.Rngs, inputs: Field):
        check_series(inputs, spec.length)
        super().__init__(spec, rngs, pool="mean")
        shape = (spec.kernel, inputs.shape[1], spec.width)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) * (2 / (spec.kernel * inputs.shape[1])) ** 0.5)
        self.last = spec.build_norm(spec.width) if spec.norm == "post" else None
        if spec.pool == "flatten":
            self.pool = flatten

    def embed(self, x: Array) -> tuple[Array, Array, None]:
        """Return tokens h [B,L,D], positions [L,D] (or zero), and None: all are real if the batch does not say."""
        reach = self.kernel.shape[0] // 2
        ring = jnp.concatenate([x[:, x.shape[1] - reach :], x, x[:, :reach]], axis=1) if reach else x
        h = convolve(ring, self.kernel[...])
        return h, sines(x.shape[1], h.shape[2]) if self.spec.positions == "sines" else jnp.zeros(()), None

    def _normed(self, h: Array) -> Array:
        return super()._normed(h) if self.last is None else self.last(h)


def convolve(x: Array, kernel: Array) -> Array:
    """Convolve series [B,L,C] with a kernel [K,C,D], without padding."""
    return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))


def flatten(tokens: Array, valid: Array | None) -> Array:
    """Concatenate tokens, [B,N,D] -> [B,N*D], with zeros where a token is not valid [B,N]."""
    tokens = tokens if valid is None else tokens * valid[..., None].astype(tokens.dtype)
    return tokens.reshape(len(tokens), -1)


@spec
class SeriesConvolutions(Encoder):
    """Encode a series by convolutions, each but the last followed by max pooling; the output is flattened.

    The defaults are the tower of spectra of GalSpecNet (Wu et al. 2024), as AstroM3 uses it.
    """

    rank: ClassVar[int] = 3

    length: Count
    """Number of time steps L."""
    channels: tuple[Width, ...] = (64, 64, 32, 32)
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


INITIALIZERS = {"he": nnx.initializers.he_normal, "glorot": nnx.initializers.glorot_uniform}


@spec
class Perceptron(Encoder):
    """Encode vectors [B,C] by dense layers, each followed by an activation and dropout."""

    rank: ClassVar[int] = 2

    widths: tuple[Width, ...] = (512, 512)
    """Width of each layer."""
    dropout: DropRate = 0.0
    """Share of the values that training drops after each layer."""
    activation: Activation = "relu"
    """Activation of each layer."""
    last: Activation | None = None
    """Activation of the last layer; None: that of the others."""
    init: Literal["he", "glorot"] = "he"
    """Initial kernels: normal (He et al. 2015), or uniform (Glorot & Bengio 2010), as in Keras."""

    @property
    def features(self) -> int:
        return self.widths[-1]

    def problems(self) -> Iterator[str]:
        if not self.widths:
            yield "widths needs one layer at least"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> nnx.Module:
        if len(inputs.shape) != 1 or inputs.classes is not None:
            raise ValueError(f"a perceptron reads vectors of numbers [B,C], got {dataclasses.asdict(inputs)}")
        return PerceptronModule(self, rngs, inputs.shape[0])


class PerceptronModule(nnx.Module):
    """Map vectors float [B,C] to features."""

    def __init__(self, spec: Perceptron, rngs: nnx.Rngs, inputs: int):
        init, ends = INITIALIZERS[spec.init](), pairwise((inputs, *spec.widths))
        self.layers = nnx.List([nnx.Linear(a, b, kernel_init=init, rngs=rngs) for a, b in ends])
        self.dropout = spec.dropout
        self.activations = (*[spec.activation] * (len(spec.widths) - 1), spec.last or spec.activation)

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        inputs.check_intermediates(len(self.layers))
        x, after = inputs.x, {}
        for i, layer in enumerate(self.layers):
            x = ACTIVATIONS[self.activations[i]](layer(x))
            x = after[i] = dropout(x, self.dropout, inputs.keys(f"dropout/{i}", self.dropout))
        return EncoderOutput(pooled=x, intermediates={i: after[i] for i in inputs.intermediates})
