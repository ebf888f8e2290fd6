"""The head of self-distillation: an MLP to unit rows, and prototypes."""

import itertools
from typing import TYPE_CHECKING, Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.layers import Dense, gelu, normal
from jaxrep.spec import Count, Part, Range, spec


@spec
class PrototypeHead(Part):
    """Apply an MLP with GELU and normalize rows; hold prototypes of learned direction and length.

    Caron et al. 2021, DINO, arXiv:2104.14294, appendix C.
    """

    prototypes: Count = 65_536
    """Number of prototypes K."""
    hidden: Count = 2_048
    """Width of the MLP's hidden layers."""
    width: Count = 256
    """Width E of the rows and of the prototypes."""
    layers: Annotated[int, Range(1, 1_000)] = 3
    """Number of dense layers of the MLP."""

    if TYPE_CHECKING:  # in the body of a method ``self.head`` is the module

        def table(self) -> Array: ...

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _PrototypeHead(self, rngs, inputs)


class _PrototypeHead(nnx.Module):
    def __init__(self, spec: PrototypeHead, rngs: nnx.Rngs, inputs: int):
        sizes = (inputs, *(spec.hidden,) * (spec.layers - 1), spec.width)
        self.mlp = nnx.List([Dense(rngs, (n,), (m,), std=0.02) for n, m in itertools.pairwise(sizes)])
        self.prototypes = normal(rngs, (spec.prototypes, spec.width), spec.width**-0.5)
        self.lengths = nnx.Param(jnp.ones((spec.prototypes, 1)))

    def __call__(self, x: Array) -> Array:
        """Map [...,inputs] to [...,E], rows of unit length, float32."""
        for layer in self.mlp[:-1]:
            x = gelu(layer(x))
        x = self.mlp[-1](x).astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))

    def table(self) -> Array:
        """Return the prototypes [K,E]."""
        x = self.prototypes[...]
        return self.lengths[...] * x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))
