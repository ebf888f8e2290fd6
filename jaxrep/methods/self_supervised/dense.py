"""Pixel propagation: a head that smooths a feature map by the similarity of its places (PixPro)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, normalize
from jaxrep.encoders.layers import Dense
from jaxrep.methods.heads import Head
from jaxrep.spec import Range, spec


@spec
class Propagation(Head):
    """Make each place the sum of all places of its map, weighted by similarity (Xie et al. 2021, arXiv:2011.10043).

    Section 3.2: y_i is the sum over j of max(cos(x_i, x_j), 0) ** power times a linear map of x_j, at unit length as in
    the released code. It reads maps [...,h,w,D] and keeps their shape.
    """

    power: Annotated[float, Range(1, 100)] = 2.0
    """Exponent of the similarities."""

    def width(self, features: int) -> int:
        return features

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Propagation(self, rngs, inputs)


class _Propagation(nnx.Module):
    def __init__(self, spec: Propagation, rngs: nnx.Rngs, width: int):
        self.power = spec.power
        self.values = Dense(rngs, (width,), (width,))

    def __call__(self, x: Array) -> Array:
        """Map [...,h,w,D] to float32 of the same shape. Raises ValueError: x has no map."""
        if x.ndim < 4:
            raise ValueError(f"Propagation reads maps [B,h,w,D], got {x.shape}: set places = True in Siamese")
        places = x.astype(jnp.float32).reshape(*x.shape[:-3], -1, x.shape[-1])
        unit, values = normalize(places), normalize(self.values(places))
        cosines = jnp.einsum("...nd,...md->...nm", unit, unit, precision=jax.lax.Precision.HIGHEST)
        weights = jnp.maximum(cosines, 0) ** self.power
        return jnp.matmul(weights, values, precision=jax.lax.Precision.HIGHEST).reshape(x.shape)
