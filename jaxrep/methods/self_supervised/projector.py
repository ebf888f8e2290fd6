"""Heads between features and the loss of a self-supervised method: projectors, predictors, and heads that are fixed."""

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.layers import ACTIVATIONS, Activation, Dense
from jaxrep.methods.heads import Head
from jaxrep.spec import Count, NonNegative, Range, spec


@spec
class Projector(Head):
    """Apply dense layers with batch norm and an activation between them (Zbontar et al. 2021, section 3.1).

    A predictor is a projector of two layers. All axes but the last are examples: rows, crops or places. Batch norm is
    over all of them, in the whole batch. By default it has no running statistics: only training can apply it.
    """

    widths: tuple[Count, ...]
    """Width of each layer's output."""
    epsilon: NonNegative = 1e-5
    """Added to the variance under the root."""
    norm: Literal["batch", "none"] = "batch"
    """The norm between layers."""
    last_norm: bool = False
    """Whether the norm also follows the last layer."""
    last_gain: bool = True
    """Whether the norm after the last layer has a gain and a bias."""
    bias: bool = False
    """Whether layers that no norm follows have a bias (before a batch norm it would do nothing)."""
    activation: Activation = "relu"
    """Activation between layers."""
    momentum: Annotated[float, Range(0, below=1)] = 0.0
    """Share of the running statistics that a step keeps; 0: there are none, and one row alone has no projection."""

    def problems(self) -> Iterator[str]:
        if not self.widths:
            yield "widths needs one layer at least"
        if self.norm == "none" and (self.last_norm or self.momentum):
            yield f"norm = 'none' has no use for last_norm = {self.last_norm} and momentum = {self.momentum:g}"
        if not self.last_gain and not self.last_norm:
            yield "last_gain = False is about the norm after the last layer: set last_norm = True"

    @property
    def per_row(self) -> bool:
        return not self.norms or self.momentum > 0

    @property
    def norms(self) -> int:
        """Return the number of layers that a norm follows, from the first on."""
        return len(self.widths) - (not self.last_norm) if self.norm == "batch" else 0

    def width(self, features: int) -> int:
        return (features, *self.widths)[-1]

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _Projector(self, rngs, inputs)


class _Projector(nnx.Module):
    def __init__(self, spec: Projector, rngs: nnx.Rngs, inputs: int):
        self.spec, normed = spec, spec.widths[: spec.norms]
        sizes = enumerate(itertools.pairwise((inputs, *spec.widths)))
        self.layers = nnx.List([Dense(rngs, (n,), (m,), bias=spec.bias and i >= len(normed)) for i, (n, m) in sizes])
        gains = normed if spec.last_gain else normed[:-1]
        self.scales = nnx.List([nnx.Param(jnp.ones(width)) for width in gains])
        self.biases = nnx.List([nnx.Param(jnp.zeros(width)) for width in gains])
        running = normed if spec.momentum else ()
        self.means = nnx.List([nnx.BatchStat(jnp.zeros(width)) for width in running])
        self.variances = nnx.List([nnx.BatchStat(jnp.ones(width)) for width in running])

    def __call__(self, x: Array, training: bool = True) -> Array:
        """Map [...,inputs] to [...,D] in float32; all axes but the last are the examples of the whole batch.

        In training, running statistics are written into the module: ``apply_head`` calls a copy and returns them.
        """
        x = x.astype(jnp.float32)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < self.spec.norms:
                x = self._normalize(x, i, training)
            if i < len(self.layers) - 1:
                x = ACTIVATIONS[self.spec.activation](x)
        return x

    def _normalize(self, x: Array, i: int, training: bool) -> Array:
        """Normalize the output of layer ``i``; without running statistics by those of ``x``, also at inference."""
        if training or not self.spec.momentum:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axis=axes)
            x = x - mean
            variance = jnp.mean(x * x, axis=axes)
            for old, new in zip((self.means, self.variances), (mean, variance), strict=True):
                if self.spec.momentum:
                    old[i].set_value(self.spec.momentum * old[i][...] + (1 - self.spec.momentum) * new)
        else:
            x, variance = x - self.means[i][...], self.variances[i][...]
        x = x * jax.lax.rsqrt(variance + self.spec.epsilon)
        return x * self.scales[i][...] + self.biases[i][...] if i < len(self.scales) else x


def apply_head(head: Any, x: Array, training: bool) -> tuple[Array, nnx.State | None]:
    """Return the head's output and, in training, its new running statistics (None: it has none)."""
    if not isinstance(head, _Projector):
        return head(x), None
    if not training or not head.spec.momentum:
        return head(x, training), None
    copy = nnx.clone(head)
    y, batch_stats = copy(x, training), jax.lax.stop_gradient(nnx.state(copy, nnx.BatchStat))
    return y, batch_stats if jax.tree.leaves(batch_stats) else None


@spec
class ScaleFeatures(Head):
    """Multiply feature i, counted from 0, by kappa ** -i: a fixed head (Xue et al. 2024, arXiv:2403.11391).

    A feature whose factor is too small for float32 becomes 0.
    """

    kappa: Annotated[float, Range(1)]
    """Ratio of the factors of two neighboring features, at least 1."""

    def width(self, features: int) -> int:
        return features

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        return _ScaleFeatures(self.kappa)


class _ScaleFeatures(nnx.Module):
    def __init__(self, kappa: float):
        self.kappa = kappa

    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.float32)
        return x * jnp.float32(self.kappa) ** -jnp.arange(x.shape[-1], dtype=jnp.float32)


@spec
class FirstFeatures(Head):
    """Take the first features: the fixed head of DirectCLR (Jing et al. 2022, arXiv:2110.09348)."""

    features: Count
    """Number of features that are taken."""

    def width(self, features: int) -> int:
        return self.features

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> nnx.Module:
        if self.features > inputs:
            raise ValueError(f"FirstFeatures takes {self.features} features, and its input has {inputs}: take as many")
        return _FirstFeatures(self.features)


class _FirstFeatures(nnx.Module):
    def __init__(self, features: int):
        self.features = features

    def __call__(self, x: Array) -> Array:
        return x[..., : self.features]
