"""Mixtures of a queue's nearest rows, as harder negatives of one query (MoCHi, Kalantidis et al. 2020).

arXiv:2010.01028. Of each query the N nearest rows of a queue are found; some negatives are mixtures of two of them,
others of one of them and the query. They have unit length and no gradient.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Key

from jaxrep.batch import Array, normalize
from jaxrep.losses.pairwise import checks
from jaxrep.losses.pairwise.chunks import from_chunks, to_chunks
from jaxrep.losses.pairwise.scan import BLOCK_SIZE, Rows, duplicates

MAX_QUERY_SHARE = 0.5
"""The query's share in a mixture stays below it, so that the other row weighs more."""


class Draws(NamedTuple):
    """Hold the draws of the mixtures of B queries: places among the nearest rows, and shares from 0 to 1."""

    first: Int[Array, "B S"]
    second: Int[Array, "B S"]
    share: Float[Array, "B S"]
    """Share of the first row."""
    with_query: Int[Array, "B T"]
    query_share: Float[Array, "B T"]
    """Share of the query, from 0 to ``MAX_QUERY_SHARE``."""


def draw(keys: Key[Array, " B"], nearest: int, mixed: int, with_query: int) -> Draws:
    """Draw S = ``mixed`` pairs and T = ``with_query`` single ones of ``nearest`` rows, uniformly and independently."""

    def one(key: Array) -> Draws:
        pairs, shares, single, query_shares = jax.random.split(key, 4)
        first, second = jax.random.randint(pairs, (2, mixed), 0, nearest)
        query_share = jax.random.uniform(query_shares, (with_query,), maxval=MAX_QUERY_SHARE)
        places = jax.random.randint(single, (with_query,), 0, nearest)
        return Draws(first, second, jax.random.uniform(shares, (mixed,)), places, query_share)

    return jax.vmap(one)(keys)


def hard_mixtures(
    queries: Rows, queue: Rows, draws: Draws, nearest: int, *, block_size: int = BLOCK_SIZE
) -> tuple[Float[Array, "B S+T D"], Bool[Array, " B"]]:
    """Return mixtures of each query's nearest rows of a queue, and whether a query has any.

    Similarities exist for a block of queries at a time. Rows of the queue that are absent, or duplicates of a query by
    ids, are not among its nearest; if fewer than ``nearest`` are left, the draws are among those.

    Args:
        queries: unit rows [B,D].
        queue: unit rows [Q,D], with ids in the order of the queries', or without.
        draws: of ``draw``.
        nearest: number N of the nearest rows.
        block_size: queries whose similarities exist at a time, approximately.

    Raises:
        ValueError: the widths differ, or the queue has fewer than ``nearest`` rows.
    """
    checks.check_width("the queue", queue.x, queries.x)
    if nearest > len(queue.x):
        raise ValueError(
            f"nearest is {nearest}, and the queue has {len(queue.x)} rows: choose fewer nearest rows or a longer queue"
        )
    queries, queue = jax.lax.stop_gradient(jax.tree.map(jnp.asarray, (queries, queue)))

    def mix(block: tuple[Rows, Draws]) -> tuple[Array, Array]:
        query, drawn = block
        similarity = jnp.matmul(query.x, queue.x.T, precision=jax.lax.Precision.HIGHEST)
        met = jnp.ones(similarity.shape, bool) if queue.present is None else queue.present[None, :]
        if queue.ids:
            met &= ~duplicates(query.ids, queue.ids)
        found = jax.lax.top_k(jnp.where(met, similarity, -jnp.inf), nearest)[1]
        left = jnp.minimum(jnp.sum(met, axis=1), nearest)

        def rows(places: Array) -> Array:
            return queue.x[jnp.take_along_axis(found, places % jnp.maximum(left, 1)[:, None], axis=1)]

        pairs = _between(rows(drawn.first), rows(drawn.second), drawn.share)
        with_query = _between(query.x[:, None], rows(drawn.with_query), drawn.query_share)
        return normalize(jnp.concatenate([pairs, with_query], axis=1)), left > 0

    blocks = jax.lax.map(mix, to_chunks((queries, draws), block_size))
    mixtures, present = (from_chunks(x, len(queries.x)) for x in blocks)
    return mixtures, present


def _between(x: Array, y: Array, share: Array) -> Array:
    return share[..., None] * x + (1 - share[..., None]) * y
