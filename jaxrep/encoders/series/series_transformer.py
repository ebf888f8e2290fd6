"""The transformer of Informer (Zhou et al. 2021, arXiv:2012.07436) over series such as light curves, [B,L,C]."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.layers import LayerNorm
from jaxrep.encoders.transformer import Transformer, TransformerModule
from jaxrep.spec import Count, spec


@spec
class SeriesTransformer(Transformer):
    """Encode the time steps of a series by a transformer, after a circular convolution that embeds them.

    The tower of Informer, with full attention in place of its sparse one: at the few hundred steps for which it is used
    here full attention costs little and draws nothing.
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

    @property
    def features(self) -> int:
        return self.width * (self.length if self.pool == "flatten" else 1)

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

    def __init__(self, spec: SeriesTransformer, rngs: nnx.Rngs, inputs: Field):
        check_series(inputs, spec.length)
        super().__init__(spec, rngs, pool="mean")
        shape = (spec.kernel, inputs.shape[1], spec.width)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) * (2 / (spec.kernel * inputs.shape[1])) ** 0.5)
        self.last = LayerNorm(spec.width, spec.norm_epsilon) if spec.norm == "post" else None
        if spec.pool == "flatten":
            self.pool = flatten

    def embed(self, x: Array) -> tuple[Array, Array, None]:
        """Return tokens h [B,L,D], positions [L,D], and None: all time steps are real if the batch does not say."""
        reach = self.kernel.shape[0] // 2
        ring = jnp.concatenate([x[:, x.shape[1] - reach :], x, x[:, :reach]], axis=1) if reach else x
        h = convolve(ring, self.kernel[...])
        return h, sines(x.shape[1], h.shape[2]), None

    def _normed(self, h: Array) -> Array:
        return super()._normed(h) if self.last is None else self.last(h)


def convolve(x: Array, kernel: Array) -> Array:
    """Convolve series [B,L,C] with a kernel [K,C,D], without padding."""
    return jax.lax.conv_general_dilated(x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))


def flatten(tokens: Array, valid: Array | None) -> Array:
    """Concatenate tokens, [B,N,D] -> [B,N*D], with zeros where a token is not valid [B,N]."""
    tokens = tokens if valid is None else tokens * valid[..., None].astype(tokens.dtype)
    return tokens.reshape(len(tokens), -1)


def sines(length: int, width: int) -> Array:
    """Return positions [L,D]: alternating sine and cosine, of wavelengths from 2 pi to 10,000 times that.

    Vaswani et al. 2017, section 3.5.
    """
    rate = jnp.exp(jnp.arange(0, width, 2) * -(jnp.log(10_000.0) / width))
    angle = jnp.arange(length)[:, None] * rate
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=2).reshape(length, -1)[:, :width]
