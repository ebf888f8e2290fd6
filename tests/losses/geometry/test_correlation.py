"""Compare losses on correlations with the papers' equations in float64, on any number of devices."""

import jax
import numpy as np
import pytest

from jaxrep.losses.geometry import barlow_twins, covariance_penalty, mean_square, mixed_twins, variance_hinge
from jaxrep.mesh import ROWS, Mesh

B, D, REDUNDANCY = 16, 5, 0.03
RNG = np.random.default_rng(0)
MIXED, ONE, OTHER = RNG.normal(size=(3, B, D)).astype(np.float32) * [[[3.0]], [[1.0]], [[0.2]]] + 0.7
ONE += 0.5 * OTHER
SHARE, PARTNER = np.full(B, 0.3, np.float32), RNG.permutation(B).astype(np.int32)
CLOSE = dict(rtol=2e-5, atol=2e-6)  # float32 sums over sixteen rows


def z(x):
    """As torch's mean and std: unbiased."""
    return (x - x.mean(0)) / np.sqrt(((x - x.mean(0)) ** 2).sum(0) / (B - 1))


def twins_by_hand(a, b):
    total, c = 0.0, z(a).T @ z(b) / B
    for i in range(D):
        for j in range(D):
            total = total + ((1 - c[i, j]) ** 2 if i == j else REDUNDANCY * c[i, j] ** 2)
    return total


def mixed_by_hand(mixed, a, b):
    """The four matrices of the authors' README, written out."""
    m, a, b, alpha = z(mixed), z(a), z(b), 0.3
    with_a, with_b = m.T @ a / B, m.T @ b / B
    true_a = (alpha * a.T @ a + (1 - alpha) * b[PARTNER].T @ a) / B
    true_b = (alpha * a.T @ b + (1 - alpha) * b[PARTNER].T @ b) / B
    return 0.5 * (((with_a - true_a) ** 2).sum() + ((with_b - true_b) ** 2).sum())


def spread_by_hand(x):
    """VICReg's equations 1 to 4, written out (a relu has the derivative 0 or 1)."""
    x = x - x.mean(0)
    deviation = np.sqrt((x * x).sum(0) / (B - 1) + 1e-4)
    total = sum(2.0 - d if d.real < 2 else 0.0 for d in deviation) / D
    for i in range(D):
        for j in range(D):
            total = total + (i != j) * ((x[:, i] * x[:, j]).sum() / (B - 1)) ** 2 / D
    return total


def slope(f, args, which):
    """The derivative by the complex step: as exact as the value."""
    found = np.zeros(args[which].shape)
    for at in np.ndindex(found.shape):
        moved = [x.astype(complex) for x in args]
        moved[which][at] += 1e-30j
        found[at] = f(*moved).imag / 1e-30
    return found


CASES = {
    "twins": (lambda a, b: barlow_twins(a, b, REDUNDANCY), twins_by_hand, (ONE, OTHER)),
    "spread": (lambda x: variance_hinge(x, 2.0) + covariance_penalty(x), spread_by_hand, (OTHER * [0.5, 1, 2, 3, 30],)),
    "mean square": (mean_square, lambda a, b: ((a - b) ** 2).sum() / (B * D), (ONE, OTHER)),
    "mixed": (lambda m, a, b: mixed_twins(m, a, b, SHARE, PARTNER), mixed_by_hand, (MIXED, ONE, OTHER)),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_on_any_number_of_devices(name):
    loss, by_hand, arrays = CASES[name]
    arrays = tuple(np.float32(x) for x in arrays)
    exact = [np.float64(x) for x in arrays]
    for devices in (1, 2, 8):
        mesh = Mesh(data=devices).build(jax.devices()[:devices])
        with jax.set_mesh(mesh):
            placed = jax.device_put(arrays, jax.NamedSharding(mesh, ROWS))
            value, slopes = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(arrays)))))(*placed)
        np.testing.assert_allclose(value, by_hand(*exact), **CLOSE)
        for which, found in enumerate(slopes):
            np.testing.assert_allclose(found, slope(by_hand, exact, which), **CLOSE)


def test_whitened_equal_views_have_zero_loss_and_constant_feature_gives_no_nan():
    whitened = np.linalg.qr(ONE - ONE.mean(0))[0].astype(np.float32)
    # The biased mean of products of columns of unbiased variance one is 1 - 1 / B.
    np.testing.assert_allclose(barlow_twins(whitened, whitened, REDUNDANCY), D / B**2, rtol=1e-4)
    dead = ONE.astype(np.float32).copy()
    dead[:, 2] = 4
    assert np.isfinite(jax.grad(barlow_twins)(dead, np.float32(OTHER), REDUNDANCY)).all()
    with pytest.raises(ValueError, match="two arrays"):
        barlow_twins(ONE, OTHER[:3], REDUNDANCY)


def test_collapsed_features_have_finite_gradients_and_one_row_is_refused():
    assert np.isfinite(jax.grad(lambda x: variance_hinge(x) + covariance_penalty(x))(np.ones((B, D), np.float32))).all()
    for loss in (variance_hinge, covariance_penalty):
        with pytest.raises(ValueError, match=r"features \[B,D\] over rows, B at least 2: \(1, 5\)"):
            loss(np.ones((1, D), np.float32))
    with pytest.raises(ValueError, match="differences are those of two arrays"):
        mean_square(np.ones((B, D)), np.ones((1, D)))
