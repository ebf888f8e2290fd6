"""Compare Sinkhorn targets, cross-entropy over prototypes and KoLeo with DINOv2's formulas in float64.

Value and gradient, in blocks of any size, on any number of devices.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.distillation import prototype_cross_entropy, sinkhorn
from jaxrep.losses.geometry import koleo_loss
from jaxrep.mesh import ROWS, Mesh
from tests.helpers.loss_oracle import derivative

R, S, T, E, K = 24, 3, 2, 4, 6
RNG = np.random.default_rng(0)


def unit(*shape):
    x = RNG.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


STUDENT, TEACHER, TABLE, THEIRS = unit(R, S, E), unit(R, T, E), unit(K, E), unit(K, E)
PAIRS = np.array([[0, 0.25], [0.25, 0], [0.25, 0.25]])
CLOSE = dict(rtol=5e-5, atol=2e-6)  # float32 logits up to 25


def by_scaling(logits, temperature, iterations):
    """Scale [M,K] in turn to equal sums of prototypes and of samples, as in DINOv2's code."""
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
    """Return the losses [R] by loops over pairs."""
    total = np.zeros(len(student), student.dtype)
    for s in range(S):
        for t in range(T):
            total = total - PAIRS[s, t] * (targets[:, t] * np.log(softmax(student[:, s] @ table.T / 0.1))).sum(-1)
    return total


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("block_size", [3, 512])
def test_sinkhorn_factors_give_sinkhorn_knopp_targets(iterations, block_size):
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
def test_prototype_cross_entropy_value_and_gradient(devices, count, block_size):
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    whole = jax.NamedSharding(mesh, jax.P())
    rows = jax.NamedSharding(mesh, ROWS) if count % devices == 0 else whole

    def loss(student, table, teacher, theirs):
        factors = sinkhorn(teacher.reshape(-1, E), theirs, 0.07, block_size=block_size)
        temperatures = dict(pairs=PAIRS, student_temperature=0.1, teacher_temperature=0.07)
        losses = prototype_cross_entropy(
            student, table, teacher, theirs, factors, **temperatures, block_size=block_size
        )
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
    by_student = derivative(lambda x: dino_by_hand(x, table, targets).mean(), student)
    by_table = derivative(lambda x: dino_by_hand(student, x, targets).mean(), table)
    np.testing.assert_allclose(slopes[0], by_student, **CLOSE)
    np.testing.assert_allclose(slopes[1], by_table, **CLOSE)
    assert all(np.abs(slopes[i]).max() == 0 for i in (2, 3))  # the teacher has no gradient


@pytest.mark.parametrize("block_size", [12, 512])
def test_factors_of_each_teacher_value_and_gradient(block_size):
    def loss(student):
        factors = jnp.stack([sinkhorn(TEACHER[:, t], THEIRS, 0.07, block_size=block_size) for t in range(T)])
        temperatures = dict(pairs=PAIRS, student_temperature=0.1, teacher_temperature=0.07)
        return jnp.mean(
            prototype_cross_entropy(student, TABLE, TEACHER, THEIRS, factors, **temperatures, block_size=block_size)
        )

    value, slopes = jax.jit(jax.value_and_grad(loss))(STUDENT)
    each = [by_scaling(np.float64(TEACHER[:, t]) @ np.float64(THEIRS).T, 0.07, 3) for t in range(T)]
    by_hand = lambda x: dino_by_hand(x, np.float64(TABLE), np.stack(each, 1)).mean()  # noqa: E731
    np.testing.assert_allclose(value, by_hand(np.float64(STUDENT)), **CLOSE)
    np.testing.assert_allclose(slopes, derivative(by_hand, np.float64(STUDENT)), **CLOSE)


@pytest.mark.parametrize(("devices", "count", "block_size"), [(1, 16, 512), (1, 13, 4), (8, 24, 16), (8, 13, 4)])
def test_koleo_value_and_gradient(devices, count, block_size):
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
    np.testing.assert_allclose(slopes, derivative(by_hand, x), rtol=1e-4, atol=1e-5)  # of small distances
