"""Losses between the places of two views of a picture (Xie et al. 2021, Propagate Yourself, arXiv:2011.10043).

Features are compared where they lie in the picture: a box [left, top, right, bottom] says which part of it a view
shows, in shares of its width and height (``jaxrep.views.RandomResizedCrop.tell_box``). Places lie row by row.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxrep.batch import Array, normalize


def place_centers(box: Float[Array, "B 4"], grid: tuple[int, int]) -> Float[Array, "B N 2"]:
    """Return the centers (x, y) in the picture of the places of a map of ``grid`` rows and columns."""
    start, end = box[:, None, :2], box[:, None, 2:]
    rows, columns = ((jnp.arange(size) + 0.5) / size for size in grid)
    shares = jnp.stack(jnp.meshgrid(columns, rows), axis=-1).reshape(-1, 2)
    return start + (end - start) * shares


def near_places(
    box_a: Float[Array, "B 4"],
    box_b: Float[Array, "B 4"],
    grid_a: tuple[int, int],
    grid_b: tuple[int, int],
    radius: float = 0.7,
) -> Bool[Array, "B N M"]:
    """Return which places of two views lie near each other in the picture (section 3.1, equation 1).

    Their centers are closer than ``radius`` times the diagonal of a place, of the view whose places are larger.
    """
    a, b = place_centers(box_a, grid_a), place_centers(box_b, grid_b)
    distance = jnp.linalg.norm(a[:, :, None] - b[:, None], axis=-1)
    return distance < radius * jnp.maximum(_diagonal(box_a, grid_a), _diagonal(box_b, grid_b))[:, None, None]


def place_agreement(
    a: Float[Array, "B N D"], b: Float[Array, "B M D"], near: Bool[Array, "B N M"]
) -> Float[Array, " B"]:
    """Return minus twice the mean cosine over the near places of each picture; 0 if it has none.

    The released code (zdaxie/PixPro, contrast/models/PixPro.py) adds 1e-6 to the number of pairs.
    """
    return -2 * jnp.sum(_cosines(a, b) * near, axis=(1, 2)) / (jnp.sum(near, axis=(1, 2)) + 1e-6)


def place_contrast(
    a: Float[Array, "B N D"], b: Float[Array, "B M D"], near: Bool[Array, "B N M"], temperature: float = 0.3
) -> Float[Array, " B"]:
    """Return the cross-entropy of the places of ``a``: near places of ``b`` are positives, all others negatives.

    Equation 2, with the sum over a place's positives inside the logarithm; the mean over the places of a picture that
    have one, or 0.
    """
    logits = _cosines(a, b) / temperature
    has_positive = jnp.any(near, axis=2)
    # A place without positives takes all, whose gradient is finite, and then has loss 0.
    positive = jax.nn.logsumexp(logits, axis=2, where=near | ~has_positive[..., None])
    losses = jnp.where(has_positive, jax.nn.logsumexp(logits, axis=2) - positive, 0.0)
    return jnp.sum(losses, axis=1) / jnp.maximum(jnp.sum(has_positive, axis=1), 1)


def _cosines(a: Float[Array, "B N D"], b: Float[Array, "B M D"]) -> Float[Array, "B N M"]:
    return jnp.einsum("bnd,bmd->bnm", normalize(a), normalize(b), precision=jax.lax.Precision.HIGHEST)


def _diagonal(box: Float[Array, "B 4"], grid: tuple[int, int]) -> Float[Array, " B"]:
    """Return the diagonal of a place in the picture."""
    return jnp.linalg.norm((box[:, 2:] - box[:, :2]) / jnp.array(grid[::-1]), axis=-1)
