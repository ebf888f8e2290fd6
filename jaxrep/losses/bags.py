"""Bags of visual words, and the loss of predicting them (Gidaris et al. 2021, OBoW, arXiv:2012.11552).

Distances from all places of a batch to all words exist for a block of pictures at a time.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.losses.pairwise.chunks import from_chunks, to_chunks
from jaxrep.losses.pairwise.scan import BLOCK_SIZE


def nearest_word_distances(
    maps: Float[Array, "B N D"], words: Float[Array, "K D"], *, block_size: int = BLOCK_SIZE
) -> Float[Array, "B N"]:
    """Return the squared distance of each place to its nearest word, without gradient; ``block_size``: places."""
    return _by_blocks(lambda block: jnp.min(_squared_distances(block, words), axis=-1), maps, block_size)


def bags_of_words(
    maps: Float[Array, "B N D"],
    words: Float[Array, "K D"],
    sharpness: Float[Array, ""] | float,
    *,
    block_size: int = BLOCK_SIZE,
) -> Float[Array, "B K"]:
    """Return how much of each word a picture has, as shares that sum to 1, without gradient (section 3.1).

    A place has each word by the softmax of minus its squared distance times ``sharpness``; a picture has the most that
    any of its places has. ``block_size``: places whose distances exist at a time.
    """

    def bags(block: Float[Array, "b N D"]) -> Float[Array, "b K"]:
        distances = _squared_distances(block, words)
        # The nearest word has a logit of exactly 0: with large ones, fused rounding would make softmax overflow.
        further = distances - jnp.min(distances, axis=-1, keepdims=True)
        most = jnp.max(jax.nn.softmax(-sharpness * further, axis=-1), axis=1)
        return most / jnp.sum(most, axis=-1, keepdims=True)

    return _by_blocks(bags, maps, block_size)


def bag_cross_entropy(
    x: Float[Array, "B V D"],
    weights: Float[Array, "K D"],
    bags: Float[Array, "B K"],
    scale: float,
    *,
    block_size: int = BLOCK_SIZE,
) -> Float[Array, " B"]:
    """Return the cross-entropy of ``softmax(scale * weights @ x)`` with the bag of a row, its mean over V crops.

    The released code (valeoai/obow) subtracts the bag's entropy, which has no gradient. ``block_size``: crops whose
    logits exist at a time; they are computed again in the backward pass.
    """

    @jax.checkpoint
    def losses(block: tuple[Array, Array]) -> Array:
        x, bags = block
        logits = scale * jnp.einsum("bvd,kd->bvk", x, weights, precision=jax.lax.Precision.HIGHEST)
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * bags[:, None], axis=-1), axis=1)

    rows = (x.astype(jnp.float32), jax.lax.stop_gradient(bags))
    return from_chunks(jax.lax.map(losses, to_chunks(rows, max(block_size // x.shape[1], 1))), len(x))


def _by_blocks(function, maps: Float[Array, "B N D"], block_size: int) -> Array:
    """Return a function of float32 maps without gradient, a block of pictures at a time."""
    maps = jax.lax.stop_gradient(maps).astype(jnp.float32)
    return from_chunks(jax.lax.map(function, to_chunks(maps, max(block_size // maps.shape[1], 1))), len(maps))


def _squared_distances(x: Float[Array, "b N D"], words: Float[Array, "K D"]) -> Float[Array, "b N K"]:
    words = jax.lax.stop_gradient(words).astype(jnp.float32)
    products = jnp.einsum("bnd,kd->bnk", x, words, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(x * x, axis=-1, keepdims=True) + jnp.sum(words * words, axis=-1)
    return jnp.maximum(lengths - 2 * products, 0)
