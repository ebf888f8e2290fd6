"""Balanced targets, cross-entropy over prototypes and KoLeo equal DINOv2's formulae in float64, in value and gradient,
in blocks of any size, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.koleo import koleo_loss
from jaxrep.losses.prototypes import prototype_cross_entropy, sinkhorn
from jaxrep.mesh import ROWS, Mesh

R, S, T, E, K = 24, 3, 2, 4, 6
RNG = np.random.default_rng(0)


def unit(*shape):
    x = RNG.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


STUDENT, TEACHER, TABLE, THEIRS = unit(R, S, E), unit(R, T, E), unit(K, E), unit(K, E)
PAIRS = np.array([[0, 0.25], [0.25, 0], [0.25, 0.25]])
CLOSE = dict(rtol=5e-5, atol=2e-6)  # float32 logits up to 25


def by_scaling(logits, temperature, iterations):
    """[M,K] -> [M,K]: the matrix of DINOv2's code, scaled in turn to equal sums of prototypes and of samples."""
    q = np.exp(logits / temperature).T
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * K
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True).real)
    return e / e.sum(-1, keepdims=True)


def dino_by_hand(student, table, targets):
    """[R] by loops over pairs."""
    total = np.zeros(len(student), student.dtype)
    for s in range(S):
        for t in range(T):
            total = total - PAIRS[s, t] * (targets[:, t] * np.log(softmax(student[:, s] @ table.T / 0.1))).sum(-1)
    return total


def slope(f, x):
    """The derivative by the complex step: as exact as the value."""
    found = np.zeros(x.shape)
    for at in np.ndindex(x.shape):
        moved = x.astype(complex)
        moved[at] += 1e-30j
        found[at] = f(moved).imag / 1e-30
    return found


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("block_size", [3, 512])
def test_factors_of_the_prototypes_make_the_targets_of_sinkhorn_knopp(iterations, block_size):
    rows = TEACHER.reshape(-1, E)
    here = np.arange(len(rows)) % 5 != 0
    factors = sinkhorn(rows, THEIRS, 0.05, present=here, iterations=iterations, block_size=block_size)
    logits = np.float64(rows[here]) @ np.float64(THEIRS).T
    found = softmax(logits / 0.05 + np.float64(factors))
    np.testing.assert_allclose(found, by_scaling(logits, 0.05, iterations), **CLOSE)


@pytest.mark.parametrize(
    ("devices", "count", "block_size"),
    [
        pytest.param(1, 16, 12, id="whole blocks"),
        pytest.param(1, 13, 12, id="blocks filled up"),
        pytest.param(8, 24, 24, id="whole blocks of each device"),
        pytest.param(8, 24, 48, id="blocks of each device filled up"),
        pytest.param(8, 13, 12, id="rows that devices do not divide"),
    ],
)
def test_cross_entropy_over_prototypes_in_value_and_gradient(devices, count, block_size):
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    whole = jax.NamedSharding(mesh, jax.P())
    rows = jax.NamedSharding(mesh, ROWS) if count % devices == 0 else whole

    def loss(student, table, teacher, theirs):
        factors = sinkhorn(teacher.reshape(-1, E), theirs, 0.07, block_size=block_size)
        how = dict(pairs=PAIRS, student_temperature=0.1, teacher_temperature=0.07)
        losses = prototype_cross_entropy(student, table, teacher, theirs, factors, **how, block_size=block_size)
        return jnp.mean(losses), losses

    student, teacher = STUDENT[:count], TEACHER[:count]
    with jax.set_mesh(mesh):
        given = (
            jax.device_put(x, at) for x, at in zip((student, TABLE, teacher, THEIRS), (rows, whole) * 2, strict=True)
        )
        (_, losses), slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True))(*given)
    targets = by_scaling(np.float64(teacher.reshape(-1, E)) @ np.float64(THEIRS).T, 0.07, 3).reshape(count, T, K)
    student, table = np.float64(student), np.float64(TABLE)
    np.testing.assert_allclose(losses, dino_by_hand(student, table, targets), **CLOSE)
    by_student = slope(lambda x: dino_by_hand(x, table, targets).mean(), student)
    by_table = slope(lambda x: dino_by_hand(student, x, targets).mean(), table)
    np.testing.assert_allclose(slopes[0], by_student, **CLOSE)
    np.testing.assert_allclose(slopes[1], by_table, **CLOSE)
    assert all(np.abs(slopes[i]).max() == 0 for i in (2, 3))  # the teacher is told nothing


@pytest.mark.parametrize(("devices", "count", "block_size"), [(1, 16, 512), (1, 13, 4), (8, 24, 16), (8, 13, 4)])
def test_koleo_in_value_and_gradient(devices, count, block_size):
    x = 3 * RNG.normal(size=(count, E))

    def by_hand(x):
        x = x / np.sqrt((x * x).sum(1, keepdims=True))
        products = (x @ x.T).real - 9 * np.eye(count)
        return -np.mean(np.log(np.sqrt(((x - x[products.argmax(1)] + 1e-8) ** 2).sum(1)) + 1e-8))

    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        rows = jax.NamedSharding(mesh, ROWS if count % devices == 0 else jax.P())
        placed = jax.device_put(np.float32(x), rows)
        value, slopes = jax.jit(jax.value_and_grad(lambda x: koleo_loss(x, block_size=block_size)))(placed)
    np.testing.assert_allclose(value, by_hand(x), rtol=1e-5)
    np.testing.assert_allclose(slopes, slope(by_hand, x), rtol=1e-4, atol=1e-5)  # of small distances
