"""Losses of boxes, and the matching of predicted boxes to true ones (Carion et al. 2020, DETR, arXiv:2005.12872).

A box is (x and y of its center, width, height), as shares of the image's sides.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from jaxrep.batch import Array

EPSILON = 1e-9
"""Smallest divisor: boxes without area have a finite gradient."""
LARGE_COST = 1e9
"""Replaces a cost that is not finite, so that a diverged model still gets an assignment."""


def box_l1(a: Float[Array, "*B 4"], b: Float[Array, "*#B 4"]) -> Float[Array, "*B"]:
    """Return the sum of the four absolute differences, in shares of the image's sides (DETR, section 3.1)."""
    return jnp.sum(jnp.abs(a - b), axis=-1)


def iou(a: Float[Array, "*B 4"], b: Float[Array, "*#B 4"]) -> Float[Array, "*B"]:
    """Return the intersection over union, from 0 to 1."""
    intersection, union, _ = _areas(a, b)
    return intersection / jnp.maximum(union, EPSILON)


def giou(a: Float[Array, "*B 4"], b: Float[Array, "*#B 4"]) -> Float[Array, "*B"]:
    """Return the generalized intersection over union, from -1 to 1 (Rezatofighi et al. 2019, algorithm 1).

    arXiv:1902.09630.
    """
    intersection, union, hull = _areas(a, b)
    return intersection / jnp.maximum(union, EPSILON) - (hull - union) / jnp.maximum(hull, EPSILON)


def corners(boxes: Float[Array, "*B 4"]) -> tuple[Float[Array, "*B 2"], Float[Array, "*B 2"]]:
    """Return the lowest and highest x and y, as shares of the image's sides."""
    center, half = boxes[..., :2], boxes[..., 2:] / 2
    return center - half, center + half


def match_boxes(
    predicted: Float[Array, "*B Q 4"],
    boxes: Float[Array, "*B R 4"],
    present: Bool[Array, "*B R"],
    *,
    l1_cost: float = 5.0,
    giou_cost: float = 2.0,
) -> Int[Array, "*B R"]:
    """Return the predicted box of each true one, no two the same, at the least sum of costs.

    DETR, equation 1 without classes. True boxes that are absent get one of the remaining boxes. Raises ValueError:
    Q < R.
    """
    pairs = predicted[..., None, :, :], boxes[..., :, None, :]
    cost = l1_cost * box_l1(*pairs) - giou_cost * giou(*pairs)
    return linear_assignment(jnp.where(present[..., None], cost, 0.0))


def linear_assignment(cost: Float[Array, "*B R Q"]) -> Int[Array, "*B R"]:
    """Return a column for each row, no two the same, at the least sum of costs; R <= Q. No gradient passes.

    Raises ValueError: there are more rows than columns.
    """
    if cost.shape[-2] > cost.shape[-1]:
        raise ValueError(f"{cost.shape[-2]} rows cannot each have a different one of {cost.shape[-1]} columns")
    fixed = jax.lax.stop_gradient(cost).astype(jnp.float32)
    return _assign(jnp.nan_to_num(fixed, nan=LARGE_COST, posinf=LARGE_COST, neginf=LARGE_COST))


@functools.partial(jnp.vectorize, signature="(r,q)->(r)")
def _assign(cost: Array) -> Array:
    rows, columns = optax.assignment.hungarian_algorithm(cost)
    return columns[jnp.argsort(rows)]


def _areas(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Return the areas of the intersection, of the union, and of the smallest box around both."""
    (low_a, high_a), (low_b, high_b) = corners(a), corners(b)
    intersection = _area(jnp.maximum(jnp.minimum(high_a, high_b) - jnp.maximum(low_a, low_b), 0.0))
    hull = _area(jnp.maximum(high_a, high_b) - jnp.minimum(low_a, low_b))
    return intersection, _area(a[..., 2:]) + _area(b[..., 2:]) - intersection, hull


def _area(sides: Array) -> Array:
    return sides[..., 0] * sides[..., 1]
