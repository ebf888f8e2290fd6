"""Layers of convolutional encoders: convolutions, norms over a batch or over groups, stochastic depth.

As in ``layers``, a layer computes in the type of its input, and the statistics of norms are float32. A batch norm
writes its running statistics into its module; ``convnet`` runs a copy and returns them, so nothing is mutated.
"""

import abc
import math
from collections.abc import Iterable, Iterator
from typing import Annotated

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.layers import normal
from jaxrep.spec import Count, NonNegative, Range, spec


@spec
class Norm(abc.ABC):
    """Declare how activations are normalized after a convolution (abstract)."""

    @abc.abstractmethod
    def build(self, width: int) -> nnx.Module:
        """Return a module called as ``norm(x [B,H,W,width], training)``."""

    def width_problems(self, widths: Iterable[int]) -> Iterator[str]:
        """Yield a sentence on widths that this norm cannot take."""
        return iter(())


@spec
class BatchNorm(Norm):
    """Normalize over the whole (global) batch in training, by running averages at inference (Ioffe & Szegedy 2015).

    It couples the rows of a batch, so an encoder with it cannot be trained by microbatches; one with ``GroupNorm`` can.
    """

    momentum: Annotated[float, Range(0, below=1)] = 0.9
    """Share of a running average that a step keeps (in torch: one minus its momentum)."""
    epsilon: NonNegative = 1e-5
    """Added to the variance under the root."""
    groups: Count = 1
    """Number of equal parts of the batch, in the order of its rows, that are normalized each by itself, as on so many
    devices whose norms do not communicate (He et al. 2020, MoCo, arXiv:1911.05722, section 3.3)."""

    def build(self, width):
        return BatchNormLayer(width, self.momentum, self.epsilon, self.groups)


@spec
class GroupNorm(Norm):
    """Normalize over space and a group of channels, row by row (Wu & He 2018, arXiv:1803.08494)."""

    groups: Count = 8
    """Number of groups; it divides every width of the network."""
    epsilon: NonNegative = 1e-5
    """Added to the variance under the root."""

    def build(self, width):
        return GroupNormLayer(width, self.groups, self.epsilon)

    def width_problems(self, widths):
        if wrong := sorted({width for width in widths if width % self.groups}):
            yield f"norm.groups = {self.groups} do not divide the widths {wrong}: take a number of groups that does"


class BatchNormLayer(nnx.Module):
    """Normalize over the batch; the running variance is the biased one (divided by the count).

    With several groups the running statistics move towards the means of those of the groups.
    """

    def __init__(self, width: int, momentum: float, epsilon: float, groups: int = 1):
        self.momentum, self.epsilon, self.groups = momentum, epsilon, groups
        self.scale, self.bias = nnx.Param(jnp.ones(width, jnp.float32)), nnx.Param(jnp.zeros(width, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(width, jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones(width, jnp.float32))

    def __call__(self, x: Array, training: bool) -> Array:
        """Normalize x [B,H,W,C]. In training by its own statistics, towards which the running ones move.

        Raises:
            ValueError: the groups do not divide the rows.
        """
        if training and len(x) % self.groups:
            raise ValueError(f"norm.groups = {self.groups} do not divide the {len(x)} rows of a batch: take a divisor")
        y = x.astype(jnp.float32)
        mean, variance = self.mean[...], self.variance[...]
        if training:
            y = rearrange(y, "(g b) h w c -> g b h w c", g=self.groups)
            mean = reduce(y, "g b h w c -> g 1 1 1 c", "mean")
            variance = reduce(jnp.square(y - mean), "g b h w c -> g 1 1 1 c", "mean")
            for running, new in ((self.mean, mean), (self.variance, variance)):
                # set_value: in a trace, assignments to [...] cost time quadratic in the number of layers
                new = reduce(new, "g 1 1 1 c -> c", "mean")
                running.set_value(self.momentum * running[...] + (1 - self.momentum) * new)
        y = (y - mean) * (jax.lax.rsqrt(variance + self.epsilon) * self.scale[...]) + self.bias[...]
        return y.reshape(x.shape).astype(x.dtype)


class GroupNormLayer(nnx.Module):
    """Normalize over groups of channels; the same in training and at inference."""

    def __init__(self, width: int, groups: int, epsilon: float):
        self.groups, self.epsilon = groups, epsilon
        self.scale, self.bias = nnx.Param(jnp.ones(width, jnp.float32)), nnx.Param(jnp.zeros(width, jnp.float32))

    def __call__(self, x: Array, training: bool) -> Array:
        """Normalize x [B,H,W,C]."""
        y = rearrange(x.astype(jnp.float32), "b h w (g c) -> b h w g c", g=self.groups)
        y = y - y.mean((1, 2, 4), keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 2, 4), keepdims=True) + self.epsilon)
        y = rearrange(y, "b h w g c -> b h w (g c)") * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


class Conv(nnx.Module):
    """Convolve without bias, [B,H,W,C] -> [B,H/stride,W/stride,outputs].

    ``symmetric``: pad kernel // 2 zeros on each side, as torch does. Otherwise pad as TensorFlow's SAME: an odd zero is
    at the bottom and the right. Kernels start normal with variance 2 / fan-out (He et al. 2015, arXiv:1502.01852).
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
        kernel, strides, layout = self.kernel[...].astype(x.dtype), (self.stride,) * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, strides, self.padding, dimension_numbers=layout, feature_group_count=self.groups
        )


class ConvNorm(nnx.Module):
    """Apply a convolution, and then a norm."""

    def __init__(self, conv: Conv, norm: Norm):
        self.conv, self.norm = conv, norm.build(conv.kernel.shape[-1])

    def __call__(self, x: Array, training: bool) -> Array:
        return self.norm(self.conv(x), training)


def blur(x: Array) -> Array:
    """Smooth x [B,H,W,C] by (1, 2, 1) / 4 along rows and columns, zeros outside (Zhang 2019, arXiv:1904.11486)."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    return (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
