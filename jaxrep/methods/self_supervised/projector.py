"""Projectors: the head between features and a loss of two views."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.layers import Dense
from jaxrep.spec import Count, NonNegative, Part, spec


@spec
class Projector(Part):
    """Apply dense layers without biases, with batch norm and ReLU between them (Zbontar et al. 2021, section 3.1).

    Statistics are always those of the current rows: only training uses the projector, so there are no running ones.
    """

    widths: tuple[Count, ...]
    """Width of each layer's output."""
    epsilon: NonNegative = 1e-5
    """Added to the variance under the root."""

    def problems(self) -> Iterator[str]:
        if not self.widths:
            yield "widths needs one layer at least"

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Projector(self, rngs, inputs)


class _Projector(nnx.Module):
    def __init__(self, spec: Projector, rngs: nnx.Rngs, inputs: int):
        self.epsilon = spec.epsilon
        sizes = itertools.pairwise((inputs, *spec.widths))
        self.layers = nnx.List([Dense(rngs, (n,), (m,), bias=False) for n, m in sizes])
        self.scales = nnx.List([nnx.Param(jnp.ones(width)) for width in spec.widths[:-1]])
        self.biases = nnx.List([nnx.Param(jnp.zeros(width)) for width in spec.widths[:-1]])

    def __call__(self, x: Array) -> Array:
        """Map [B,inputs] to [B,D] in float32; B is the whole batch."""
        x = self.layers[0](x.astype(jnp.float32))
        for layer, scale, bias in zip(self.layers[1:], self.scales, self.biases, strict=True):
            x = x - jnp.mean(x, axis=0)
            x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=0) + self.epsilon)
            x = layer(jax.nn.relu(x * scale[...] + bias[...]))
        return x
