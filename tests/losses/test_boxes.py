"""Check boxes and their matching against NumPy in float64, published properties, and SciPy's assignment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxrep.batch import INFERENCE
from jaxrep.losses.boxes import box_l1, giou, iou, linear_assignment, match_boxes
from jaxrep.objectives.separable import BoxLoss


@pytest.fixture(scope="module")
def solve():
    return jax.jit(linear_assignment)


@pytest.mark.parametrize("shape", [(1, 1), (4, 4), (5, 9), (12, 12)])
def test_assignment_equals_scipy(solve, shape):
    costs = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    found = np.asarray(solve(costs))
    for cost, columns in zip(costs, found, strict=True):
        np.testing.assert_array_equal(columns, linear_sum_assignment(cost)[1])


def test_assignment_with_ties_has_least_cost(solve):
    costs = np.random.default_rng(1).integers(0, 3, size=(40, 5, 6)).astype(np.float32)
    for cost, columns in zip(costs, np.asarray(solve(costs)), strict=True):
        assert len(set(columns)) == 5
        assert cost[np.arange(5), columns].sum() == cost[linear_sum_assignment(cost)].sum()


def test_nonfinite_costs_still_give_an_assignment(solve):
    costs = np.full((3, 5, 6), np.nan, np.float32)
    costs[1], costs[2, :2] = np.inf, 1.0
    for columns in np.asarray(solve(costs)):
        assert len(set(columns)) == 5 and set(columns) <= set(range(6))


def test_more_rows_than_columns_are_refused():
    with pytest.raises(ValueError, match="3 rows"):
        linear_assignment(jnp.zeros((3, 2)))


def boxes(random: np.random.Generator, *shape: int) -> np.ndarray:
    return np.concatenate([random.uniform(0.2, 0.8, (*shape, 2)), random.uniform(0.05, 0.6, (*shape, 2))], axis=-1)


def areas(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Return the areas of intersection, union and hull of two boxes, from their intervals."""
    sides = [[(box[i] - box[i + 2] / 2, box[i] + box[i + 2] / 2) for i in (0, 1)] for box in (a, b)]
    inner, hull = 1.0, 1.0
    for (low_a, high_a), (low_b, high_b) in zip(*sides, strict=True):
        inner *= max(min(high_a, high_b) - max(low_a, low_b), 0.0)
        hull *= max(high_a, high_b) - min(low_a, low_b)
    return inner, a[2] * a[3] + b[2] * b[3] - inner, hull


def iou_of(a: np.ndarray, b: np.ndarray) -> float:
    inner, union, _ = areas(a, b)
    return inner / union


def giou_of(a: np.ndarray, b: np.ndarray) -> float:
    _, union, hull = areas(a, b)
    return iou_of(a, b) - (hull - union) / hull


def slope(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Return central differences in float64."""
    ways = step * np.eye(x.size).reshape(x.size, *x.shape)
    return np.array([(function(x + way) - function(x - way)) / (2 * step) for way in ways]).reshape(x.shape)


def test_iou_giou_and_l1_in_value_and_gradient():
    random = np.random.default_rng(0)
    pairs = boxes(random, 20, 2)
    for function, oracle in ((iou, iou_of), (giou, giou_of), (box_l1, lambda a, b: np.abs(a - b).sum())):
        value, gradient = jax.jit(jax.vmap(jax.value_and_grad(function)))(pairs[:, 0], pairs[:, 1])
        for i, (a, b) in enumerate(pairs):
            # float32, with areas that are differences of areas
            np.testing.assert_allclose(value[i], oracle(a, b), atol=2e-6)
            np.testing.assert_allclose(gradient[i], slope(lambda a, b=b, f=oracle: f(a, b), a), rtol=1e-4, atol=1e-4)


def test_giou_limits():
    same, left, right = jnp.array([0.5, 0.5, 0.2, 0.3]), jnp.array([0, 0, 1e-3, 1e-3]), jnp.array([1, 1, 1e-3, 1e-3])
    np.testing.assert_allclose(giou(same, same), 1, atol=1e-6)  # float32
    assert giou(left, right) < -0.99
    point = jnp.array([0.5, 0.5, 0.0, 0.0])
    assert np.isfinite(jax.grad(giou)(point, point)).all()


def test_match_boxes_equals_scipy_over_present_boxes():
    random = np.random.default_rng(2)
    predicted, true = boxes(random, 30, 5), boxes(random, 30, 4)
    present = np.arange(4) < random.integers(0, 5, size=(30, 1))
    found = np.asarray(jax.jit(match_boxes)(predicted, np.where(present[..., None], true, 0), present))
    for i in range(30):
        cost = np.array([[5 * np.abs(p - t).sum() - 2 * giou_of(p, t) for p in predicted[i]] for t in true[i]])
        count = present[i].sum()
        np.testing.assert_array_equal(found[i, :count], linear_sum_assignment(cost[:count])[1])
        assert len(set(found[i])) == 4


@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_box_loss_is_mean_over_present_boxes(kind):
    random = np.random.default_rng(3)
    x, true = boxes(random, 3, 2), boxes(random, 3, 2)
    present = np.array([[True, True], [True, False], [False, False]])
    each = (lambda a, b: np.abs(a - b).sum()) if kind == "l1" else (lambda a, b: 1 - giou_of(a, b))

    def oracle(x: np.ndarray) -> float:
        return float(np.mean([each(x[i, r], true[i, r]) for i, r in zip(*np.nonzero(present), strict=True)]))

    true[~present] = 0
    batch = {"boxes": true.astype(np.float32), "region/present": present}
    term = BoxLoss("matched/boxes", kind=kind)
    loss = jax.value_and_grad(lambda x: term({"matched/boxes": x}, batch, INFERENCE)[0])
    value, gradient = loss(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(value, oracle(x), rtol=1e-5)  # float32
    np.testing.assert_allclose(gradient, slope(oracle, x), rtol=1e-4, atol=1e-5)
