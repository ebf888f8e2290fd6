"""Order examples that are hard to tell apart next to each other; each example still comes once per epoch."""

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.data.orders.base import Indices, Order, PlannedIndices, require_examples
from jaxrep.data.orders.permutation import permute
from jaxrep.data.source import Examples
from jaxrep.errors import UsageError
from jaxrep.spec import Count, spec

CHUNK_SIZE = 2**20
"""Examples whose places are computed at a time, which bounds the temporary memory."""


@spec
class Neighbors(Order):
    """Read examples that share a near neighbor one after the other; each epoch has another order.

    Each epoch ranks all examples at random. Each example joins the example of the lowest rank among itself and its
    neighbors; examples that join the same one come one after the other. The order reads the column when it is opened,
    and holds it and the order of one epoch in memory.
    """

    column: str = "neighbors"
    """Column [N,K] of the indices of each example's nearest ones; -1 where there are fewer."""
    k: Count = 8
    """Number of neighbors to use."""

    def indices(self, examples: Examples, batch_size: int) -> Indices:
        last, neighbors = require_examples(examples) - 1, np.asarray(examples.column(self.column))
        if neighbors.ndim != 2 or neighbors.min() < -1 or neighbors.max() > last:
            raise UsageError(
                f"the column '{self.column}' holds indices of neighbors, [N,K] from 0 to {last} or -1 for "
                f"none; it is {neighbors.dtype} {list(neighbors.shape)}, {neighbors.min()} to {neighbors.max()}"
            )
        return ShuffledNeighbors(self.seed, neighbors[:, : self.k])


class ShuffledNeighbors(PlannedIndices[np.ndarray]):
    """Compute ``Neighbors`` by the indices of neighbors [N,K]. A plan is all indices in the order of an epoch."""

    def __init__(self, seed: int, neighbors: Int[np.ndarray, "N K"]):
        super().__init__(seed, len(neighbors))
        self._neighbors = neighbors

    def plan(self, key: np.uint64) -> np.ndarray:
        by_rank = np.empty(self._length, np.uint32 if self._length <= 2**32 else np.uint64)
        for start in range(0, self._length, CHUNK_SIZE):
            ranks = np.arange(start, min(start + CHUNK_SIZE, self._length), dtype=np.uint64)
            by_rank[start : start + CHUNK_SIZE] = permute(ranks, self._length, np.full_like(ranks, key))
        rank = np.empty_like(by_rank)
        rank[by_rank] = np.arange(self._length, dtype=by_rank.dtype)
        leader = rank.copy()
        for column in self._neighbors.T:
            np.minimum(leader, np.where(column < 0, rank, rank[column]), out=leader)
        # A leader may follow another leader: then the followers of both come one after the other.
        return np.lexsort((rank, leader, leader[by_rank[leader]])).astype(by_rank.dtype)

    def read_plan(self, plan: np.ndarray, places: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        return plan[places]
