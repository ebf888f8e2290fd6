"""Orders that put examples side by side which belong together: of one class or concept, or hard to tell apart.

Every example still comes once an epoch. Both read a whole column when they are opened: four bytes an example for
``Grouped``; the neighbors themselves, and one epoch's order, for ``Neighbors``.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.orders.base import EPOCHS, Indexed, Indices, Order, epoch_keys, mix, permute, some
from jaxrep.errors import UsageError
from jaxrep.spec import spec

AT_ONCE = 2**20
"""Examples whose places are computed at a time, which bounds the memory that this takes for a moment."""


@spec
class Grouped(Order):
    """Groups of ``per_group`` examples that share a value, in a random order, and with other members each epoch.

    What of each value is too little for a group forms mixed groups among the others. Where an epoch is no whole number
    of groups, a batch may cut the groups at its ends.
    """

    by: str = "label"
    """Column of the values: a class, a concept."""
    per_group: int = 4
    """Examples in a group."""

    def block(self, batch_size: int) -> int:
        return self.per_group

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.per_group < 1:
            yield f"per_group counts examples and is at least 1, not {self.per_group}"

    def over(self, examples: Indexed, batch_size: int) -> Indices:
        some(examples)
        return ShuffledGroups(self.seed, np.asarray(examples.column(self.by)), self.per_group)


class ShuffledGroups(Indices):
    """``Grouped`` by ``values`` [N]."""

    def __init__(self, seed: int, values: np.ndarray, size: int):
        self._seed, self._size, self._length = seed, np.uint64(size), len(values)
        by_value = np.argsort(values, kind="stable")
        ordered = values[by_value]
        self._rows = by_value.astype(np.uint32 if len(values) <= 2**32 else np.int64)  # value after value
        starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        self._starts = np.concatenate([[0], starts, [len(values)]]).astype(np.uint64)
        self._members = np.diff(self._starts)
        self._groups = _before(self._members // self._size)
        self._rest = _before(self._members % self._size)

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        epochs, places = np.divmod(np.asarray(positions, np.uint64), np.uint64(self._length))
        keys = epoch_keys(self._seed, epochs)
        value, member = self._members_at(places, keys)
        member = permute(member, self._members[value], mix(keys + value.astype(np.uint64)))
        return self._rows[self._starts[value] + member].astype(np.int64)

    def _members_at(self, places: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the value at each place, and which of the value's members stands there, yet in their order."""
        block, within = np.divmod(places, self._size)
        blocks = self._length // int(self._size)
        whole = block < blocks
        block[whole] = permute(block[whole], blocks, keys[whole])
        grouped = block < self._groups[-1]
        value, member = np.empty(places.shape, np.int64), np.empty_like(places)
        value[grouped], group = _within(self._groups, block[grouped])
        member[grouped] = group * self._size + within[grouped]
        rest = ((block - self._groups[-1]) * self._size + within)[~grouped]
        value[~grouped], last = _within(self._rest, permute(rest, self._rest[-1], ~keys[~grouped]))
        member[~grouped] = np.diff(self._groups)[value[~grouped]] * self._size + last
        return value, member


def _before(counts: np.ndarray) -> np.ndarray:
    """The sum of all counts before each, and of all."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)


def _within(before: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of things that are counted through: to which value each belongs, and which of that value's it is."""
    value = np.searchsorted(before, numbers, side="right") - 1
    return value, numbers - before[value]


@spec
class Neighbors(Order):
    """Hard examples side by side: those that share a near neighbor follow one another; each epoch in another order.

    Each epoch ranks all examples at random. An example goes to the one of the lowest rank among itself and its
    neighbors; who goes to the same one stands together.
    """

    column: str = "neighbors"
    """Column [N,K] of the indices of each example's nearest ones; -1 where there are fewer."""
    k: int = 8
    """How many of them are used."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.k < 1:
            yield f"k counts neighbors and is at least 1, not {self.k}"

    def over(self, examples: Indexed, batch_size: int) -> Indices:
        last, neighbors = some(examples) - 1, np.asarray(examples.column(self.column))
        if neighbors.ndim != 2 or neighbors.min() < -1 or neighbors.max() > last:
            raise UsageError(
                f"the column '{self.column}' holds indices of neighbors, [N,K] from 0 to {last} or -1 for "
                f"none; it is {neighbors.dtype} {list(neighbors.shape)}, {neighbors.min()} to {neighbors.max()}"
            )
        return SideBySide(self.seed, neighbors[:, : self.k])


class SideBySide(Indices):
    """``Neighbors`` by indices [N,K]."""

    def __init__(self, seed: int, neighbors: Int[np.ndarray, "N K"]):
        self._seed, self._neighbors = seed, neighbors
        self._epochs: LruCache[np.ndarray] = LruCache(EPOCHS)

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        epochs, places = np.divmod(np.asarray(positions, np.uint64), np.uint64(len(self._neighbors)))
        indices = np.empty(places.shape, np.int64)
        for epoch in np.unique(epochs):
            indices[epochs == epoch] = self._plan(int(epoch))[places[epochs == epoch]]
        return indices

    def _plan(self, epoch: int) -> np.ndarray:
        return self._epochs.get(epoch, lambda: self._epoch(epoch))

    def _epoch(self, epoch: int) -> np.ndarray:
        """All indices in the order of an epoch."""
        (key,) = epoch_keys(self._seed, np.array([epoch], np.uint64))
        length = len(self._neighbors)
        by_rank = np.empty(length, np.uint32 if length <= 2**32 else np.uint64)
        for start in range(0, length, AT_ONCE):
            ranks = np.arange(start, min(start + AT_ONCE, length), dtype=np.uint64)
            by_rank[start : start + AT_ONCE] = permute(ranks, length, np.full_like(ranks, key))
        rank = np.empty_like(by_rank)
        rank[by_rank] = np.arange(length, dtype=by_rank.dtype)
        leader = rank.copy()
        for column in self._neighbors.T:
            np.minimum(leader, np.where(column < 0, rank, rank[column]), out=leader)
        # who leads may go to another one itself: then both their followings stand together
        return np.lexsort((rank, leader, leader[by_rank[leader]])).astype(by_rank.dtype)
