"""Compare principal components with NumPy's singular values, and gradients with differences, on a mesh."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.losses import pca
from jaxrep.losses.pca import reconstruct_from_pca
from jaxrep.mesh import ROWS, Mesh
from tests.helpers import loss_oracle as oracle

B, D = 8, 5
projection: Any = pca.projection
WEIGHTS = np.random.default_rng(7).normal(size=(B, D))


def rebuilt(x, count):
    mean = x.mean(0)
    _, _, directions = np.linalg.svd(x - mean, full_matrices=False)
    kept = directions[:count]
    return (x - mean) @ kept.T @ kept + mean


def by_differences(function, x, step=1e-6):
    """Return central differences in float64: exact to about 1e-9 of the value."""
    slopes = np.zeros(x.shape)
    for index in np.ndindex(x.shape):
        moved = np.zeros(x.shape)
        moved[index] = step
        slopes[index] = (function(x + moved) - function(x - moved)) / (2 * step)
    return slopes


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("count", [1, 3])
def test_reconstruction_and_gradient_through_components(count, devices):
    x = oracle.rows(0, B, D)
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, jax.NamedSharding(mesh, ROWS))
        found, pull = jax.vjp(jax.jit(lambda x: reconstruct_from_pca(x, count)), placed)
        (slope,) = pull(WEIGHTS.astype(np.float32))
    exact = np.float64(x)
    # Eigenvalues are a third apart and more, so rounding grows threefold at most, over sums of 8 terms.
    np.testing.assert_allclose(found, rebuilt(exact, count), atol=3e-6)
    expected = by_differences(lambda x: (WEIGHTS * rebuilt(x, count)).sum(), exact)
    np.testing.assert_allclose(slope, expected, atol=1e-5 * np.abs(expected).max())


def test_equal_kept_eigenvalues_have_finite_gradient():
    gram = np.diag(np.array([1.0, 1.0, 4.0, 4.0, 4.0], np.float32))
    weights = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    slope = np.asarray(jax.grad(lambda gram: (weights * projection(gram, 3)).sum())(gram))
    expected = np.zeros((5, 5))
    expected[:2, 2:] = (weights + weights.T)[:2, 2:] / 2 / 3  # by the distance of 3
    np.testing.assert_allclose(slope, expected + expected.T, atol=1e-6)


def test_distance_within_rounding_has_zero_gradient():
    slope = jax.grad(lambda gram: projection(gram, 2).sum())(np.eye(5, dtype=np.float32))
    np.testing.assert_array_equal(slope, 0)


def test_batch_of_low_rank_is_unchanged():
    x = oracle.rows(0, B, D)
    for rows, count in ((x, D), (x[:4], 3)):
        assert reconstruct_from_pca(rows, count) is rows
        np.testing.assert_allclose(rebuilt(np.float64(rows), count), rows, atol=1e-7)
