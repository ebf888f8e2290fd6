"""Losses between places equal loops over pairs in float64, and PixPro's released functions on the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.dense import near_places, place_agreement, place_centers, place_contrast
from tests.helpers.loss_oracle import derivative

B, D, GRID = 4, 5, (3, 4)
RNG = np.random.default_rng(7)
# The order of the draws is that of the run of the released functions.
X, KERNEL, BIAS, Y = (RNG.normal(size=shape) for shape in ((B, *GRID, D), (D, D), (D,), (B, *GRID, D)))
BOXES = np.array(
    [
        [[0.1, 0.2, 0.9, 0.8], [0.6, 0.1, 0.2, 0.7]],  # mirrored
        [[0, 0, 1, 1], [0, 0, 1, 1]],
        [[0, 0, 0.3, 0.3], [0.7, 0.7, 1, 1]],  # nothing in common
        [[0.9, 0.2, 0.3, 0.9], [0.8, 0.1, 0.1, 0.8]],
    ]
)
# ``regression_loss`` of each picture, of zdaxie/PixPro, contrast/models/PixPro.py, run in float64 by torch on the
# propagation of X (``PixPro.featprop``) and on Y.
RELEASED = [0.03643771592137994, -0.2746567041601003, 0.0, 0.07652251488566837]
CLOSE = dict(rtol=2e-5, atol=2e-6)  # float32 sums of a few numbers near one


def unit(x):
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def propagated(x):
    """Equation 3 with a linear map and an exponent of 2."""
    x = x.reshape(len(x), -1, D)
    similarity = np.maximum(unit(x) @ np.swapaxes(unit(x), 1, 2), 0) ** 2
    return similarity @ unit(x @ KERNEL + BIAS)


def centers(box, rows, columns):
    left, top, right, bottom = box
    return [
        (left + (j + 0.5) * (right - left) / columns, top + (i + 0.5) * (bottom - top) / rows)
        for i in range(rows)
        for j in range(columns)
    ]


def near_by_hand(a, b, grid_a, grid_b, radius):
    diagonal = max(
        np.hypot((box[2] - box[0]) / columns, (box[3] - box[1]) / rows)
        for box, (rows, columns) in ((a, grid_a), (b, grid_b))
    )
    return np.array(
        [
            [np.hypot(p[0] - q[0], p[1] - q[1]) / diagonal < radius for q in centers(b, *grid_b)]
            for p in centers(a, *grid_a)
        ]
    )


def near(radius=0.7):
    return np.stack([near_by_hand(a, b, GRID, GRID, radius) for a, b in BOXES])


def agreement_by_hand(a, b, near):
    total = np.zeros(B, np.result_type(a, b))
    for n in range(B):
        pairs = np.argwhere(near[n])
        for i, j in pairs:
            total[n] += unit(a[n, i]) @ unit(b[n, j])
        total[n] *= -2 / (len(pairs) + 1e-6)
    return total


def contrast_by_hand(a, b, near, temperature):
    total = np.zeros(B, np.result_type(a, b))
    for n in range(B):
        places = [i for i in range(near.shape[1]) if near[n, i].any()]
        for i in places:
            e = np.exp(unit(b[n]) @ unit(a[n, i]) / temperature)
            total[n] -= np.log(e[near[n, i]].sum() / e.sum()) / len(places)
    return total


def test_places_of_two_grids_are_near_where_a_loop_finds_them():
    other = (5, 2)
    for radius in (0.3, 0.7, 1.5):
        found = near_places(*np.float32(BOXES.swapaxes(0, 1)), GRID, other, radius)
        expected = np.stack([near_by_hand(a, b, GRID, other, radius) for a, b in BOXES])
        np.testing.assert_array_equal(found, expected)
    assert not near()[2].any() and near()[0].any()
    np.testing.assert_allclose(place_centers(np.float32(BOXES[:, 1]), GRID)[3], centers(BOXES[3, 1], *GRID), **CLOSE)


def test_agreement_is_that_of_the_released_code():
    a, b = np.float32(propagated(X)), np.float32(Y.reshape(B, -1, D))
    found = near_places(*np.float32(BOXES.swapaxes(0, 1)), GRID, GRID)
    np.testing.assert_allclose(place_agreement(a, b, found), RELEASED, **CLOSE)


@pytest.mark.parametrize("kind", ["agreement", "contrast"])
def test_losses_equal_loops_over_pairs(kind):
    a, b = RNG.normal(size=(2, B, 12, D))
    weights = np.array([1.0, -2.0, 3.0, 0.5])
    mask = near()
    loss, by_hand = {
        "agreement": (place_agreement, agreement_by_hand),
        "contrast": (lambda *x: place_contrast(*x, 0.3), lambda *x: contrast_by_hand(*x, 0.3)),
    }[kind]
    value, slopes = jax.jit(jax.value_and_grad(lambda a, b: jnp.sum(loss(a, b, mask) * weights), argnums=(0, 1)))(
        np.float32(a), np.float32(b)
    )
    np.testing.assert_allclose(loss(np.float32(a), np.float32(b), mask), by_hand(a, b, mask), **CLOSE)
    np.testing.assert_allclose(value, (by_hand(a, b, mask) * weights).sum(), **CLOSE)
    np.testing.assert_allclose(slopes[0], derivative(lambda x: (by_hand(x, b, mask) * weights).sum(), a), **CLOSE)
    np.testing.assert_allclose(slopes[1], derivative(lambda x: (by_hand(a, x, mask) * weights).sum(), b), **CLOSE)
    assert np.isfinite(slopes[0]).all() and not slopes[0][2].any()  # the third picture has no pairs
