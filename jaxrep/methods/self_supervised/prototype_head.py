"""The head of self-distillation: an MLP to unit rows, and prototypes."""

import itertools
from typing import TYPE_CHECKING, Annotated, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, normalize
from jaxrep.encoders.layers import ACTIVATIONS, Activation, Dense, normal
from jaxrep.methods.self_supervised.projector import Projector
from jaxrep.spec import Count, Part, Range, spec


@spec
class PrototypeHead(Part):
    """Apply an MLP and normalize rows; hold prototypes.

    Caron et al. 2021, DINO, arXiv:2104.14294, appendix C; with batch norm, ReLU, two layers and prototypes of unit
    length Caron et al. 2020, SwAV, arXiv:2006.09882 (released code, resnet50.py).
    """

    prototypes: Count = 65_536
    """Number of prototypes K."""
    hidden: Count = 2_048
    """Width of the MLP's hidden layers."""
    width: Count = 256
    """Width E of the rows and of the prototypes."""
    layers: Annotated[int, Range(1, 1_000)] = 3
    """Number of dense layers of the MLP."""
    norm: Literal["none", "batch"] = "none"
    """The norm between layers. Batch norm is over all crops of the whole batch, always by their own statistics."""
    activation: Activation = "gelu"
    """Activation between layers."""
    lengths: Literal["learned", "unit"] = "learned"
    """Whether prototypes have a learned direction and a learned length, which a rule may freeze at 1 (DINO), or are
    rows that every update scales to unit length (SwAV)."""

    if TYPE_CHECKING:  # in the body of a method ``self.head`` is the module

        def table(self) -> Array: ...

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _PrototypeHead(self, rngs, inputs)


class _PrototypeHead(nnx.Module):
    def __init__(self, spec: PrototypeHead, rngs: nnx.Rngs, inputs: int):
        sizes = (inputs, *(spec.hidden,) * (spec.layers - 1), spec.width)
        if spec.norm == "batch":
            self.mlp = Projector(widths=sizes[1:], bias=True, activation=spec.activation).build(rngs, inputs=inputs)
        else:
            self.mlp = nnx.List([Dense(rngs, (n,), (m,), std=0.02) for n, m in itertools.pairwise(sizes)])
        self.activation = spec.activation
        prototypes = normal(rngs, (spec.prototypes, spec.width), spec.width**-0.5)
        unit = spec.lengths == "unit"
        self.prototypes = nnx.Param(normalize(prototypes[...]), unit_rows=True) if unit else prototypes
        self.lengths = None if unit else nnx.Param(jnp.ones((spec.prototypes, 1)))

    def __call__(self, x: Array) -> Array:
        """Map [...,inputs] to [...,E], rows of unit length, float32."""
        if isinstance(self.mlp, nnx.List):
            for layer in self.mlp[:-1]:
                x = ACTIVATIONS[self.activation](layer(x))
            x = self.mlp[-1](x)
        else:
            x = self.mlp(x)
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))

    def table(self) -> Array:
        """Return the prototypes [K,E]."""
        x = self.prototypes[...]
        if self.lengths is None:
            return x
        return self.lengths[...] * x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True))
