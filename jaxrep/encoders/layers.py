"""Layers of transformers. Each computes in the type of its input.

An encoder casts once, after its embedding (``compute_dtype``). Kernels follow the activations; parameters, the
statistics of norms and the softmax stay in float32.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array
from jaxrep.encoders.attention import KernelCall, attend
from jaxrep.encoders.remat import named


def gelu(x: Array) -> Array:
    """Return x times the standard normal distribution function at x (Hendrycks & Gimpel 2016, arXiv:1606.08415).

    It uses ``erf`` in float32. ``jax.nn.gelu`` uses ``erfc``, which costs XLA twice the work on CPUs. Errors are those
    of rounding x; far below zero, where the value vanishes, they are 1e-7.
    """
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * 0.5**0.5))).astype(x.dtype)


Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu", "selu", "sigmoid", "identity"]
ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "identity": lambda x: x,
}

Precision = Literal["auto", "float32", "bfloat16"]
Shape = tuple[int, ...]
Rotation = tuple[Array, Array]
"""Cosines and sines of the angles by which a token's channels are turned, float32 [1 or B,N,d/2] each."""


def compute_dtype(precision: Precision) -> jnp.dtype:
    """Return the type of activations and products, during tracing; ``auto``: bfloat16 on accelerators, else float32."""
    if precision == "auto":
        precision = "float32" if mesh.platform() == "cpu" else "bfloat16"
    return jnp.dtype(precision)


def normal(rngs: nnx.Rngs, shape: Shape, std: float) -> nnx.Param:
    """Return a float32 parameter drawn from a normal distribution."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))


class Dense(nnx.Module):
    """Apply an affine map over one or several axes, [..., *inputs] -> [..., *outputs].

    ``std``: standard deviation of the initial kernel; by default one over the root of the fan-in (LeCun).
    """

    def __init__(self, rngs: nnx.Rngs, inputs: Shape, outputs: Shape, *, std: float | None = None, bias: bool = True):
        self.axes = len(inputs)
        self.kernel = normal(rngs, (*inputs, *outputs), math.prod(inputs) ** -0.5 if std is None else std)
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None

    def __call__(self, x: Array) -> Array:
        kernel = self.kernel[...].astype(x.dtype)
        if kernel.ndim == 3:  # of attention: [D,H,d], or [H,d,D]
            kernel = mesh.gather_kernel(kernel, heads=self.axes % 2)
        # One product of matrices: XLA's CPU backend takes twice as long for the gradients of a product of tensors.
        rows = x.reshape(-1, math.prod(kernel.shape[: self.axes]))
        y = jnp.matmul(rows, kernel.reshape(rows.shape[1], -1))
        y = y.reshape(*x.shape[: x.ndim - self.axes], *kernel.shape[self.axes :])
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """Normalize over the last axis (Ba et al. 2016, layer normalization), with statistics in float32."""

    def __init__(self, width: int, epsilon: float, *, bias: bool = True):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32)) if bias else None

    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        y = y * self.scale[...]
        return (y if self.bias is None else y + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Divide by the root mean square over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467), in float32."""

    def __init__(self, width: int, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))

    def __call__(self, x: Array) -> Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...]).astype(x.dtype)


class Attention(nnx.Module):
    """Apply multi-head attention (Vaswani et al. 2017, section 3.2).

    Args:
        rngs: for the initial kernels.
        width: of queries and outputs.
        heads: number of heads of the queries.
        out_std: initial standard deviation of the last kernel.
        qkv_bias: whether queries, keys and values have biases.
        key_bias: whether keys have one too.
        out_bias: whether the last layer has one.
        kv_heads: heads of keys and values, which divide ``heads`` (Ainslie et al. 2023, arXiv:2305.13245); 0: as many.
        context: width of what keys and values are made of; 0: ``width``.
        norm: makes the norms of each head's queries and keys from their width (Dehghani et al. 2023, arXiv:2302.05442).
        inner_norm: makes the norm of what the heads return together, before the last layer, from its width.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        width: int,
        heads: int,
        *,
        out_std: float,
        qkv_bias: bool = True,
        key_bias: bool = True,
        out_bias: bool = True,
        kv_heads: int = 0,
        context: int = 0,
        norm: Callable[[int], nnx.Module] | None = None,
        inner_norm: Callable[[int], nnx.Module] | None = None,
    ):
        head = width // heads
        split, shared, context = (heads, head), (kv_heads or heads, head), context or width
        self.query = Dense(rngs, (width,), split, bias=qkv_bias)
        self.key = Dense(rngs, (context,), shared, bias=qkv_bias and key_bias)
        self.value = Dense(rngs, (context,), shared, bias=qkv_bias)
        self.out = Dense(rngs, split, (width,), std=out_std, bias=out_bias)
        self.query_norm = None if norm is None else norm(head)
        self.key_norm = None if norm is None else norm(head)
        self.inner_norm = None if inner_norm is None else inner_norm(width)

    def __call__(
        self,
        x: Array,
        context: Array,
        mask: Array | None = None,
        bias: Array | None = None,
        *,
        values: Array | None = None,
        rotation: Rotation | None = None,
        call: KernelCall | None = None,
    ) -> Array:
        """Map queries from x [B,N,D] and keys from ``context`` [B,M,D] to [B,N,D].

        Values come from ``values`` [B,M,D], by default the context. ``mask`` (bool, True where attention is allowed)
        and ``bias`` (added to the logits) broadcast to [B,H,N,M]. ``rotation`` turns queries and keys by their
        positions. ``call``: of a kernel, which reads it in place of mask and bias.
        """
        query, key, value = self.query(x), self.key(context), self.value(context if values is None else values)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        heads = named(attend(query, key, value, mask=mask, bias=bias, call=call), "attention")
        if self.inner_norm is not None:
            heads = self.inner_norm(heads.reshape(*heads.shape[:2], -1)).reshape(heads.shape)
        return self.out(heads)


class MLP(nnx.Module):
    """Apply two dense layers with an activation between them.

    ``gated``: the activation of a third layer multiplies the first layer's output (Shazeer 2020, arXiv:2002.05202).
    ``inner_norm`` makes the norm of the hidden layer, after the activation, from its width.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        width: int,
        hidden: int,
        *,
        activation: Activation,
        up_std: float,
        down_std: float,
        gated: bool = False,
        bias: bool = True,
        inner_norm: Callable[[int], nnx.Module] | None = None,
    ):
        self.activation = activation
        self.up = Dense(rngs, (width,), (hidden,), std=up_std, bias=bias)
        self.down = Dense(rngs, (hidden,), (width,), std=down_std, bias=bias)
        self.gate = Dense(rngs, (width,), (hidden,), std=up_std, bias=bias) if gated else None
        self.inner_norm = None if inner_norm is None else inner_norm(hidden)

    def __call__(self, x: Array) -> Array:
        activate, hidden = ACTIVATIONS[self.activation], named(self.up(x), "hidden")
        h = activate(hidden) if self.gate is None else activate(named(self.gate(x), "hidden")) * hidden
        return self.down(h if self.inner_norm is None else self.inner_norm(h))


def head_problems(heads: int, width: int) -> Iterator[str]:
    """Yield a sentence if ``heads`` do not divide ``width``."""
    if width % heads:
        yield f"heads = {heads} do not divide width = {width}: take a number of heads that does"


def dropout(x: Array, rate: float, keys: Array | None) -> Array:
    """Return x [B,...] with values zeroed at ``rate`` and the others scaled up. ``keys`` [B]; None: no dropout."""
    if keys is None or rate == 0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def drop_branch(x: Array, rate: float | Array, keys: Array | None) -> Array:
    """Apply stochastic depth: zero rows of x [B,...] at ``rate`` and scale up the others (Huang et al. 2016).

    ``keys`` [B], one per row; None: nothing is dropped.
    """
    if keys is None or (not isinstance(rate, Array) and rate == 0):
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    return jnp.where(keep.reshape(-1, *[1] * (x.ndim - 1)), x / (1 - rate), 0).astype(x.dtype)


def rotate(x: Array, rotation: Rotation) -> Array:
    """Turn pairs of channels of x [B,N,H,d], i and i + d/2, by the angles of their token (Su et al. 2021, RoFormer).

    ``rotation``: cosines and sines, float32 [1 or B,N,d/2]. The turn is computed in float32.
    """
    cos, sin = (part[:, :, None] for part in rotation)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def fold_keys(keys: Array | None, at: Array | int) -> Array | None:
    """Return the keys [B] of the site ``at`` within a site; None stays None."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, at)


def attention_mask(valid: Array | None, length: int, *, causal: bool) -> Array | None:
    """Return a bool mask [B or 1,1,N or 1,N] of real (``valid`` [B,N]) and, if ``causal``, past tokens; None: all."""
    past = jnp.tril(jnp.ones((length, length), bool))[None, None] if causal else None
    if valid is None:
        return past
    mask = valid[:, None, None, :]
    return mask if past is None else past & mask
