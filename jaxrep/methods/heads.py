"""Small parts between an encoder and a loss: projections, logit scale and logit bias."""

import abc
import math
from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array
from jaxrep.spec import Count, Finite, Part, Positive, spec


@spec
class Head(Part, abc.ABC):
    """Declare a map from features [..., D] to an embedding (abstract)."""

    @property
    def per_row(self) -> bool:
        """Return whether the embedding of a row at inference depends on that row alone."""
        return True

    @abc.abstractmethod
    def width(self, features: int) -> int:
        """Return the width of the output, given the width of the input."""

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        """Return the module. ``inputs``: the width of its input."""


@spec
class Linear(Head):
    """Apply one matrix, with an optional bias."""

    features: Count
    """Width of the output."""
    bias: bool = False
    """Whether a bias is added."""

    def width(self, features: int) -> int:
        return self.features

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        init = nnx.initializers.normal(inputs**-0.5)
        return nnx.Linear(inputs, self.features, use_bias=self.bias, kernel_init=init, rngs=rngs)


@spec
class Tanh(Linear):
    """Apply tanh to a linear layer (the dense module of sentence-transformers)."""

    bias: bool = True
    """Whether a bias is added."""

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Tanh(super().build(rngs, inputs=inputs))


class _Tanh(nnx.Module):
    def __init__(self, linear: nnx.Module):
        self.linear = linear

    def __call__(self, x: Array) -> Array:
        return jnp.tanh(self.linear(x))


@spec
class Identity(Head):
    """Return the features unchanged."""

    def width(self, features: int) -> int:
        return features

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Identity()


class _Identity(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return x


@spec
class LogitScale(Part):
    """Hold the factor of the logits (inverse temperature) as its logarithm (Radford et al. 2021, section 2.5)."""

    init: Positive = 1 / 0.07
    """Value at the start."""
    max: Positive = 100.0
    """Upper limit, applied after every update."""
    min: Positive = 1e-3
    """Lower limit, applied after every update."""
    trainable: bool = True
    """Whether it is trained, or stays at its initial value."""

    def problems(self) -> Iterator[str]:
        if not 0 < self.min <= self.init <= self.max:
            yield f"0 < min <= init <= max must hold, got min {self.min}, init {self.init}, max {self.max}"

    def build(self, rngs: nnx.Rngs, *, inputs: None = None) -> nnx.Module:
        return _LogitScale(self)


class _LogitScale(nnx.Module):
    def __init__(self, spec: LogitScale):
        kind = nnx.Param if spec.trainable else Fixed
        self.log = kind(jnp.log(jnp.float32(spec.init)), limits=(math.log(spec.min), math.log(spec.max)))

    def __call__(self) -> Array:
        return jnp.exp(self.log[...])


class Fixed(nnx.Variable):
    """Hold a value that is part of the model and never trained."""


@spec
class LogitBias(Part):
    """Hold a learned number that is added to all logits (Zhai et al. 2023, section 3.2)."""

    init: Finite = -10.0
    """Value at the start."""

    def build(self, rngs: nnx.Rngs, *, inputs: None = None) -> nnx.Module:
        return _LogitBias(self.init)


@spec
class NoBias(LogitBias):
    """Add no bias: the loss reads none."""


class _LogitBias(nnx.Module):
    def __init__(self, init: float):
        self.value = nnx.Param(jnp.float32(init))

    def __call__(self) -> Array:
        return self.value[...]
