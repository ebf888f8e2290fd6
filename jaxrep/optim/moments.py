"""Keep Adam's moments in bfloat16, each with an error term of eight bits: 3 bytes in place of 4.

In bfloat16 alone a moment that decays by 0.999 stands still: it changes by a thousandth, and two neighboring numbers
differ by a 256th to a 128th. The error term is the next eight bits of the float32 number, so together they have a
significand of 16 bits, and a change of 1/32,768 is not lost.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrep.batch import Array


class CompactMoments(NamedTuple):
    """Hold the state of ``optax.scale_by_adam``; each moment is in two parts."""

    count: Array
    mu: Any
    nu: Any
    mu_error: Any
    nu_error: Any


def compact(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keep the moments of ``optax.scale_by_adam`` compactly between its updates, which are in float32."""

    def update(updates, state, params=None):
        directions, new = adam.update(updates, expanded(state), params)
        return directions, _packed(new)

    return optax.GradientTransformation(lambda params: _packed(adam.init(params)), update)


def expanded(state: Any) -> optax.ScaleByAdamState:
    """Return the state of ``optax.scale_by_adam`` with moments in float32; one that is not compact is unchanged."""
    if not isinstance(state, CompactMoments):
        return state
    moments = (jax.tree.map(join, *parts) for parts in ((state.mu, state.mu_error), (state.nu, state.nu_error)))
    return optax.ScaleByAdamState(state.count, *moments)


def _packed(state: Any) -> CompactMoments:
    parts = [jax.tree.map(half, moments) for half in (high, low) for moments in (state.mu, state.nu)]
    return CompactMoments(state.count, *parts)


def high(x: Array) -> Array:
    """Return the first part of float32 numbers, bfloat16: sign, exponent and seven bits of the fraction."""
    return jax.lax.bitcast_convert_type((_rounded(x) >> 16).astype(jnp.uint16), jnp.bfloat16)


def low(x: Array) -> Array:
    """Return the error term of float32 numbers, uint8: the next eight bits."""
    return (_rounded(x) >> 8).astype(jnp.uint8)


def join(high: Array, low: Array) -> Array:
    """Return the float32 numbers of both parts."""
    bits = jax.lax.bitcast_convert_type(high, jnp.uint16).astype(jnp.uint32) << 16
    return jax.lax.bitcast_convert_type(bits | low.astype(jnp.uint32) << 8, jnp.float32)


def _rounded(x: Array) -> Array:
    """Return the bits of float32 numbers, uint32, rounded to the 24 that are kept; infinities and NaN stay."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(jnp.isfinite(x), bits + jnp.uint32(0x80), bits)
