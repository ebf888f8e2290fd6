"""Compare mixup on the sphere with NumPy, written from the released code's matrices."""

import functools

import jax
import numpy as np
import pytest

from jaxrep.losses.mixup import geodesic, mixed_negatives, mixed_pairs
from jaxrep.mesh import ROWS, Mesh
from tests.helpers import loss_oracle as oracle

B, D, SCALE = 8, 3, 10.0


def arc(a, b, share):
    angle = np.arccos((a * b).sum(1))[:, None]
    return (np.sin(share * angle) * a + np.sin((1 - share) * angle) * b) / np.sin(angle)


def log_softmax(x, axis):
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def negatives(a, b, logit_scale, share):
    """Compute logits of pairs on the diagonal, and of mixtures off it."""
    mixed, eye = arc(a, b, share), np.eye(len(a))
    total = 0
    for query in (a, b):
        logits = logit_scale * (eye * (a @ b.T) + (1 - eye) * (query @ mixed.T))
        total = total - np.diag(log_softmax(logits, 1)).mean()
    return total


def pairs(a, b, logit_scale, share, mixed):
    """Compute with a matrix of targets: the pairs, and the batch in reverse order."""
    left = arc(a, a[::-1], share) if mixed in ("a", "both") else a
    right = arc(b, b[::-1], share) if mixed in ("b", "both") else b
    eye, flipped = np.eye(len(a)), np.eye(len(a))[::-1]
    targets = eye + flipped if mixed == "both" else share * eye + (1 - share) * flipped
    logits = logit_scale * left @ right.T
    return -sum((targets * log_softmax(logits, axis)).sum(axis).mean() for axis in (0, 1)) / 2


CASES = {"negatives": (mixed_negatives, negatives)} | {
    mixed: (functools.partial(mixed_pairs, mixed=mixed), functools.partial(pairs, mixed=mixed))
    for mixed in ("a", "b", "both")
}


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_equal_oracle(case, devices):
    loss, expected = CASES[case]
    values = oracle.rows(0, B, D), oracle.rows(1, B, D), np.float32(SCALE)
    want = oracle.value_and_derivatives(functools.partial(expected, share=0.3), *values)
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        placed = [jax.device_put(x, jax.NamedSharding(mesh, ROWS if x.ndim else jax.P())) for x in values]
        function = functools.partial(loss, share=0.3, block_size=3)
        got = jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2)))(*placed)
    # The sine of an angle divides: the smallest of these pairs is 0.1.
    oracle.assert_close(got, want, 10 * SCALE)


def test_geodesic_divides_the_angle():
    a, b = oracle.rows(0, B, D), oracle.rows(1, B, D)
    mixed = np.asarray(geodesic(a, b, 0.25))
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), 1, atol=1e-6)
    whole = np.arccos((a * b).sum(1))
    np.testing.assert_allclose(np.arccos((mixed * b).sum(1)), 0.25 * whole, atol=1e-5)
    np.testing.assert_allclose(geodesic(a, b, 1.0), a, atol=1e-6)
    np.testing.assert_allclose(geodesic(a, b, 0.0), b, atol=1e-6)


def test_geodesic_of_equal_rows_has_finite_gradient():
    a = oracle.rows(0, B, D)
    np.testing.assert_allclose(geodesic(a, a, 0.3), a, atol=1e-6)
    slopes = jax.grad(lambda a, b: geodesic(a, b, 0.3).sum(), argnums=(0, 1))(a, a)
    for slope, expected in zip(slopes, (0.3, 0.7), strict=True):
        np.testing.assert_allclose(slope, expected, atol=1e-6)
