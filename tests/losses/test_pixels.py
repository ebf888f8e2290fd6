"""Errors of patches, and their normalization, against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.pixels import normalize_patches, patch_errors

RANDOM = np.random.default_rng(0)


def test_normalized_patches_have_the_unbiased_variance():
    patches = RANDOM.normal(2, 3, size=(2, 5, 12)).astype(np.float32)
    x = patches.astype(np.float64)
    expected = (x - x.mean(-1, keepdims=True)) / (x.var(-1, ddof=1, keepdims=True) + 1e-6) ** 0.5
    np.testing.assert_allclose(normalize_patches(jnp.asarray(patches)), expected, atol=1e-6)  # float32


def test_flat_patches_become_zeros_with_finite_gradients():
    for size in (1, 4):
        flat = np.full((1, 1, size), 0.5, np.float32)
        assert not np.asarray(normalize_patches(jnp.asarray(flat))).any()
        assert np.isfinite(jax.grad(lambda x: normalize_patches(x).sum())(flat)).all()


@pytest.mark.parametrize("kind", ["l2", "l1"])
def test_errors_are_means_over_a_patch(kind):
    a, b = RANDOM.normal(size=(2, 3, 4, 6)).astype(np.float32)
    difference = a.astype(np.float64) - b
    expected = (difference**2 if kind == "l2" else abs(difference)).mean(-1)
    np.testing.assert_allclose(patch_errors(a, b, kind), expected, rtol=1e-6)
