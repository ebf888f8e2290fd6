"""Solve the linear assignment problem exactly, inside ``jit`` and for a sharded batch of matrices.

Each row in turn is assigned at the end of a shortest augmenting path (Jonker & Volgenant 1987, doi:10.1007/BF02278710;
for rectangular costs Crouse 2016, doi:10.1109/TAES.2016.140952): O(R² Q) for R rows and Q columns. Loops have a fixed
length: the while loops of ``optax.assignment`` would make devices with different matrices wait for each other.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array

UNASSIGNED = -1
"""Stands for the partner of a row or column without one."""
LARGE_COST = 1e9
"""Replaces a cost that is not finite, so that a diverged model still gets an assignment."""


class Search(NamedTuple):
    """Hold the shortest paths from the row to assign; ``row``: the row to extend, UNASSIGNED at the end."""

    row: Array
    end: Array  # column reached last
    length: Array  # [Q]
    previous: Array  # [Q]: row before each column
    closed: Array  # bool [Q]: columns whose length is final


def linear_assignment(cost: Float[Array, "*B R Q"]) -> Int[Array, "*B R"]:
    """Return a column for each row, no two the same, at the least sum of costs; R <= Q. No gradient passes.

    Raises ValueError: there are more rows than columns.
    """
    if cost.shape[-2] > cost.shape[-1]:
        raise ValueError(f"{cost.shape[-2]} rows cannot each have a different one of {cost.shape[-1]} columns")
    fixed = jax.lax.stop_gradient(cost).astype(jnp.float32)
    finite = jnp.where(jnp.isfinite(fixed), fixed, LARGE_COST)
    return jnp.vectorize(_assign, signature="(r,q)->(r)")(finite)


def _assign(cost: Array) -> Array:
    rows, columns = cost.shape
    empty = jnp.full(rows, UNASSIGNED), jnp.full(columns, UNASSIGNED), jnp.zeros(rows), jnp.zeros(columns)
    return jax.lax.fori_loop(0, rows, functools.partial(_assign_row, cost), empty)[0]


def _assign_row(cost: Array, row: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Assign one more row. State: the column of each row, the row of each column, and the dual values u, v of both.

    A path has at most ``row + 1`` columns.
    """
    column_of_row, row_of_column, u, v = state

    def extend(_, search: Search) -> Search:
        shortest = jnp.where(search.end == UNASSIGNED, 0.0, search.length[search.end])
        through_row = shortest + cost[search.row] - u[search.row] - v
        shorter = ~search.closed & (through_row < search.length)
        length = jnp.where(shorter, through_row, search.length)
        end = jnp.argmin(jnp.where(search.closed, jnp.inf, length)).astype(jnp.int32)
        previous = jnp.where(shorter, search.row, search.previous)
        new = Search(row_of_column[end], end, length, previous, search.closed.at[end].set(True))
        return jax.tree.map(lambda old, new: jnp.where(search.row == UNASSIGNED, old, new), search, new)

    nothing = jnp.full_like(row_of_column, UNASSIGNED)
    start = Search(row, jnp.int32(UNASSIGNED), jnp.full_like(v, jnp.inf), nothing, jnp.zeros_like(v, bool))
    path = jax.lax.fori_loop(0, row + 1, extend, start)

    slack = jnp.where(path.closed, path.length[path.end] - path.length, 0.0)
    visited = jnp.where(row_of_column == UNASSIGNED, len(u), row_of_column)
    u = u.at[row].add(path.length[path.end]).at[visited].add(slack, mode="drop")

    def flip(_, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        end, column_of_row, row_of_column = state
        row = path.previous[end]
        new = column_of_row[row], column_of_row.at[row].set(end), row_of_column.at[end].set(row)
        return jax.tree.map(lambda old, new: jnp.where(end == UNASSIGNED, old, new), state, new)

    _, column_of_row, row_of_column = jax.lax.fori_loop(0, row + 1, flip, (path.end, column_of_row, row_of_column))
    return column_of_row, row_of_column, u, v - slack
