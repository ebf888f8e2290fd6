"""Splash attention by Pallas's interpreter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.encoders.attention import attend
from jaxrep.encoders.attention_splash import splash_attention
from jaxrep.encoders.layers import attention_mask
from jaxrep.mesh import Mesh


@pytest.mark.parametrize(("causal", "lengths", "devices"), [(False, None, 1), (True, (130, 7), 1), (True, (90, 1), 2)])
def test_values_and_gradients_in_float32_equal_xlas(causal, lengths, devices):
    """Of 130 tokens, which are padded to two blocks; heads of queries share heads of keys."""
    rng = np.random.default_rng(0)
    query, key, value, d_out = (jnp.asarray(rng.normal(size=(2, 130, heads, 8)), jnp.float32) for heads in (4, 2, 2, 4))
    counts = None if lengths is None else jnp.asarray(lengths, jnp.int32)
    valid = None if counts is None else jnp.arange(130) < counts[:, None]
    mask = attention_mask(valid, 130, causal=causal)

    def both(function):
        out, pull = jax.vjp(function, query, key, value)
        return out, *pull(d_out)

    expected = jax.jit(lambda: both(lambda *arrays: attend(*arrays, mask=mask)))()
    with jax.set_mesh(Mesh().build(jax.devices()[:devices])):
        found = jax.jit(lambda: both(lambda *arrays: splash_attention(*arrays, causal=causal, lengths=counts)))()
    for got, want in zip(found, expected, strict=True):
        # Sums block by block, each rescaled by the maxima of later ones.
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())
