"""Layers that convolutional encoders share: convolutions, norms over a batch or over groups, stochastic depth.

As in ``layers``, a layer computes in the type of its input, and the statistics of norms are float32. A batch norm notes
its running statistics in the module it belongs to; ``convnet`` runs a copy and returns them, so nothing is mutated.
"""

import math
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.layers import normal
from jaxrep.spec import spec


@spec
class Norm:
    """Abstract: how activations are normalized after a convolution."""

    def build(self, width: int) -> nnx.Module:
        """A module called as ``norm(x [B,H,W,width], training)``."""
        raise TypeError(f"{type(self).__name__} does not build a module")

    def misfits(self, widths: Iterable[int]) -> Iterator[str]:
        """Sentences on widths that this norm cannot take."""
        return iter(())


@spec
class BatchNorm(Norm):
    """Over the whole (global) batch in training, by running averages at inference (Ioffe & Szegedy 2015).

    It couples the rows of a batch, so an encoder that has it cannot be trained by microbatches: ``GroupNorm`` can.
    """

    momentum: float = 0.9
    """Share of a running average that a step keeps (in torch: one minus its momentum)."""
    epsilon: float = 1e-5
    """Added to the variance under the root."""

    def problems(self) -> Iterator[str]:
        if not 0 <= self.momentum < 1:
            yield f"momentum is {self.momentum}: it is the share of the running average that is kept, from 0 to below 1"

    def build(self, width):
        return BatchNormLayer(width, self.momentum, self.epsilon)


@spec
class GroupNorm(Norm):
    """Over space and a group of channels, row by row (Wu & He 2018, arXiv:1803.08494)."""

    groups: int = 8
    """Number of groups; it divides every width of the network."""
    epsilon: float = 1e-5
    """Added to the variance under the root."""

    def problems(self) -> Iterator[str]:
        if self.groups < 1:
            yield f"groups is {self.groups}: it has to be at least 1"

    def build(self, width):
        return GroupNormLayer(width, self.groups, self.epsilon)

    def misfits(self, widths):
        if self.groups >= 1 and (wrong := sorted({width for width in widths if width % self.groups})):
            yield f"norm.groups = {self.groups} do not divide the widths {wrong}: take a number of groups that does"


class BatchNormLayer(nnx.Module):
    """Batch normalization; the running variance is of the biased kind (divided by the count)."""

    def __init__(self, width: int, momentum: float, epsilon: float):
        self.momentum, self.epsilon = momentum, epsilon
        self.scale, self.bias = nnx.Param(jnp.ones(width, jnp.float32)), nnx.Param(jnp.zeros(width, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(width, jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones(width, jnp.float32))

    def __call__(self, x: Array, training: bool) -> Array:
        """x [B,H,W,C]. In training the statistics are those of x, and the module's running ones move towards them."""
        y = x.astype(jnp.float32)
        mean, variance = self.mean[...], self.variance[...]
        if training:
            mean = reduce(y, "b h w c -> c", "mean")
            variance = reduce(jnp.square(y - mean), "b h w c -> c", "mean")
            # set_value: under a trace an assignment to [...] costs time by the square of the number of layers
            self.mean.set_value(self.momentum * self.mean[...] + (1 - self.momentum) * mean)
            self.variance.set_value(self.momentum * self.variance[...] + (1 - self.momentum) * variance)
        y = (y - mean) * (jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]) + self.bias[...]
        return y.astype(x.dtype)


class GroupNormLayer(nnx.Module):
    """Group normalization; the same in training and at inference."""

    def __init__(self, width: int, groups: int, epsilon: float):
        self.groups, self.epsilon = groups, epsilon
        self.scale, self.bias = nnx.Param(jnp.ones(width, jnp.float32)), nnx.Param(jnp.zeros(width, jnp.float32))

    def __call__(self, x: Array, training: bool) -> Array:
        """x [B,H,W,C]."""
        y = rearrange(x.astype(jnp.float32), "b h w (g c) -> b h w g c", g=self.groups)
        y = y - y.mean((1, 2, 4), keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 2, 4), keepdims=True) + self.epsilon)
        y = rearrange(y, "b h w g c -> b h w (g c)") * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


class Conv(nnx.Module):
    """[B,H,W,C] -> [B,H/stride,W/stride,outputs]: a convolution without bias.

    ``symmetric``: pad kernel // 2 zeros on each side, as torch does; otherwise as TensorFlow's SAME, where the odd zero
    goes to the bottom and the right. Kernels start normal with variance 2 / fan-out (He et al. 2015, arXiv:1502.01852).
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        symmetric: bool = False,
    ):
        self.stride, self.groups = stride, groups
        self.padding = ((kernel // 2, kernel // 2),) * 2 if symmetric else "SAME"
        fan_out = kernel**2 * outputs // groups
        self.kernel = normal(rngs, (kernel, kernel, inputs // groups, outputs), math.sqrt(2 / fan_out))

    def __call__(self, x: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )


class ConvNorm(nnx.Module):
    """A convolution (its arguments are Conv's), then a norm."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        norm: Norm,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        symmetric: bool = False,
    ):
        self.conv = Conv(rngs, inputs, outputs, kernel, stride=stride, groups=groups, symmetric=symmetric)
        self.norm = norm.build(outputs)

    def __call__(self, x: Array, training: bool) -> Array:
        return self.norm(self.conv(x), training)


def blur(x: Array) -> Array:
    """x [B,H,W,C] smoothed by (1, 2, 1) / 4 along rows and columns, zeros outside (Zhang 2019, arXiv:1904.11486)."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4


def drop_branch(x: Array, rate: float, keys: Array | None) -> Array:
    """Stochastic depth: x [B,...] with whole rows zeroed at ``rate`` and the others scaled up (Huang et al. 2016).

    ``keys`` [B], one a row; None: nothing is dropped.
    """
    if keys is None or rate == 0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    return jnp.where(keep.reshape(-1, *[1] * (x.ndim - 1)), x / (1 - rate), 0).astype(x.dtype)
