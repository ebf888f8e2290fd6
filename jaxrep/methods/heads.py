"""Small parts between an encoder and a loss: projections, the learned scale and bias."""

import math
from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array
from jaxrep.spec import Part, spec


@spec
class Head(Part):
    """Abstract: maps features [..., D] to an embedding."""

    def width(self, features: int) -> int:
        """Width of the output, given the width of the input."""
        raise TypeError(f"{type(self).__name__} does not say how wide its output is")

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        """The module. ``inputs``: the width that it reads."""
        raise TypeError(f"{type(self).__name__} does not build a module")


@spec
class Linear(Head):
    """One matrix, with a bias where asked for."""

    features: int
    """Width of the output."""
    bias: bool = False
    """Whether a bias is added."""

    def problems(self) -> Iterator[str]:
        if self.features < 1:
            yield f"features is a width: at least 1, got {self.features}"

    def width(self, features: int) -> int:
        return self.features

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        init = nnx.initializers.normal(inputs**-0.5)
        return nnx.Linear(inputs, self.features, use_bias=self.bias, kernel_init=init, rngs=rngs)


@spec
class Tanh(Head):
    """tanh of a linear layer (the dense module of sentence-transformers)."""

    features: int
    """Width of the output."""
    bias: bool = True
    """Whether a bias is added."""

    def problems(self) -> Iterator[str]:
        yield from Linear(features=self.features).problems()

    def width(self, features: int) -> int:
        return self.features

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Tanh(Linear(features=self.features, bias=self.bias).build(rngs, inputs=inputs))


class _Tanh(nnx.Module):
    def __init__(self, linear: nnx.Module):
        self.linear = linear

    def __call__(self, x: Array) -> Array:
        return jnp.tanh(self.linear(x))


@spec
class Identity(Head):
    """The features as they are."""

    def width(self, features: int) -> int:
        return features

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Identity()


class _Identity(nnx.Module):
    def __call__(self, x: Array) -> Array:
        return x


@spec
class LogitScale(Part):
    """The learned factor of the logits, an inverse temperature, kept as its logarithm (Radford et al. 2021, section
    2.5)."""

    init: float = 1 / 0.07
    """Value at the start."""
    max: float = 100.0
    """The parameter is held at or below this after every update."""
    min: float = 1e-3
    """The parameter is held at or above this after every update."""
    learned: bool = True
    """Whether it is trained; otherwise it stays at its start."""

    def problems(self) -> Iterator[str]:
        if not 0 < self.min <= self.init <= self.max:
            yield f"0 < min <= init <= max must hold, got min {self.min}, init {self.init}, max {self.max}"

    def build(self, rngs: nnx.Rngs, *, inputs: None = None) -> nnx.Module:
        return Scale(self)


class Scale(nnx.Module):
    """exp of a scalar parameter."""

    def __init__(self, spec: LogitScale):
        kind = nnx.Param if spec.learned else Fixed
        self.log = kind(jnp.log(jnp.float32(spec.init)), limits=(math.log(spec.min), math.log(spec.max)))

    def __call__(self) -> Array:
        return jnp.exp(self.log[...])


class Fixed(nnx.Variable):
    """A value that is part of the model and never trained."""


@spec
class LogitBias(Part):
    """The learned number added to all logits (Zhai et al. 2023, section 3.2)."""

    init: float = -10.0
    """Value at the start."""

    def build(self, rngs: nnx.Rngs, *, inputs: None = None) -> nnx.Module:
        return Bias(self.init)


@spec
class NoBias(LogitBias):
    """No bias: the loss reads none."""


class Bias(nnx.Module):
    """A scalar parameter."""

    def __init__(self, init: float):
        self.value = nnx.Param(jnp.float32(init))

    def __call__(self) -> Array:
        return self.value[...]
