"""The cheapest one-to-one assignment of rows to columns, exact and inside ``jit``.

Each row in turn takes the end of a shortest augmenting path (Jonker & Volgenant 1987, doi:10.1007/BF02278710; as
Crouse 2016, doi:10.1109/TAES.2016.140952, has it for rectangular costs): O(R² Q) for R rows and Q columns.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array

FREE = -1
"""In place of the partner of a row or column that has none."""
BEYOND = 1e9
"""Stands for a cost that is no finite number, so that an assignment is found where a model has diverged."""


class Search(NamedTuple):
    """Shortest paths from the row that is to be assigned; ``at``: the row that is looked from, FREE at the end."""

    at: Array
    end: Array  # column reached last
    length: Array  # [Q]
    before: Array  # [Q]: row before each column
    closed: Array  # bool [Q]: columns whose length is final


def linear_assignment(cost: Float[Array, "*B R Q"]) -> Int[Array, "*B R"]:
    """A column for each row, no two the same, so that the sum of the costs is least; R <= Q. No gradient passes.

    Raises ValueError: there are more rows than columns.
    """
    if cost.shape[-2] > cost.shape[-1]:
        raise ValueError(f"{cost.shape[-2]} rows cannot each have one of {cost.shape[-1]} columns of their own")
    fixed = jax.lax.stop_gradient(cost).astype(jnp.float32)
    finite = jnp.where(jnp.isfinite(fixed), fixed, BEYOND)
    return jnp.vectorize(_assign, signature="(r,q)->(r)")(finite)


def _assign(cost: Array) -> Array:
    rows, columns = cost.shape
    empty = jnp.full(rows, FREE), jnp.full(columns, FREE), jnp.zeros(rows), jnp.zeros(columns)
    return jax.lax.fori_loop(0, rows, functools.partial(_add, cost), empty)[0]


def _add(cost: Array, row: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Assigns one more row. State: the column of each row, the row of each column, and the dual values of both.

    A path holds at most ``row + 1`` columns. Loops run that often for all matrices of a batch, so that devices that
    have different ones need not ask each other whether to end.
    """
    of_row, of_column, u, v = state

    def grow(_, search: Search) -> Search:
        least = jnp.where(search.end == FREE, 0.0, search.length[search.end])
        reach = least + cost[search.at] - u[search.at] - v
        shorter = ~search.closed & (reach < search.length)
        length = jnp.where(shorter, reach, search.length)
        end = jnp.argmin(jnp.where(search.closed, jnp.inf, length)).astype(jnp.int32)
        before = jnp.where(shorter, search.at, search.before)
        new = Search(of_column[end], end, length, before, search.closed.at[end].set(True))
        return jax.tree.map(lambda old, new: jnp.where(search.at == FREE, old, new), search, new)

    none = jnp.full_like(of_column, FREE)
    start = Search(row, jnp.int32(FREE), jnp.full_like(v, jnp.inf), none, jnp.zeros_like(v, bool))
    found = jax.lax.fori_loop(0, row + 1, grow, start)

    least = found.length[found.end]
    spare = jnp.where(found.closed, least - found.length, 0.0)
    u = u.at[row].add(least).at[jnp.where(of_column == FREE, len(u), of_column)].add(spare, mode="drop")

    def flip(_, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        end, of_row, of_column = state
        row = found.before[end]
        new = of_row[row], of_row.at[row].set(end), of_column.at[end].set(row)
        return jax.tree.map(lambda old, new: jnp.where(end == FREE, old, new), state, new)

    _, of_row, of_column = jax.lax.fori_loop(0, row + 1, flip, (found.end, of_row, of_column))
    return of_row, of_column, u, v - spare
