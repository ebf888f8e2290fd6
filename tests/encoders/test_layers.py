"""Layers against float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrep.encoders.layers import gelu


def test_gelu_is_x_times_the_normal_distribution_in_value_and_gradient():
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    cdf = np.array([0.5 * math.erfc(-value / 2**0.5) for value in x.tolist()])
    density = np.exp(-np.square(x, dtype=np.float64) / 2) / math.sqrt(2 * math.pi)
    # Rounding of a float32 near 1, which the distribution is: 1.2e-7, here twice, and times x in the value.
    np.testing.assert_array_less(np.abs(gelu(jnp.asarray(x)) - x * cdf), 2.4e-7 * (1 + np.abs(x)))
    gradient = jax.vmap(jax.grad(gelu))(x)
    np.testing.assert_allclose(gradient, cdf + x * density, rtol=0, atol=5e-7)


def test_gelu_in_bfloat16_is_float32s_rounded():
    x = jnp.linspace(-8, 8, 401).astype(jnp.bfloat16)
    np.testing.assert_array_equal(gelu(x), gelu(x.astype(jnp.float32)).astype(jnp.bfloat16))
