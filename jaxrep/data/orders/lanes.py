"""Cut the rows of a batch into lanes, each with an order of its own over shards of its own.

A host whose rows are whole lanes reads the shards of these lanes alone. The lanes, not the hosts, decide the order, so
it is the same on any number of hosts.
"""

import heapq
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.data.orders.base import Indices, JoinedIndices


class Lanes(JoinedIndices):
    """Give the rows of every batch to ``parts``, as many consecutive rows each; a lane goes on from batch to batch."""

    def __init__(self, lanes: Sequence[Indices], batch_size: int):
        """Join lanes of equal parts of a batch. Raises ValueError: they do not divide it."""
        super().__init__(lanes, [0] * len(lanes))
        if batch_size % len(lanes):
            raise ValueError(f"a batch of {batch_size} rows cannot be cut into {len(lanes)} equal lanes")
        self._rows = batch_size // len(lanes)

    def places(self, positions: UInt64[np.ndarray, "B"]) -> tuple[Int[np.ndarray, "B"], UInt64[np.ndarray, "B"]]:
        runs, within = np.divmod(positions, np.uint64(self._rows))
        batch, lane = np.divmod(runs, np.uint64(len(self.parts)))
        return lane.astype(np.int64), batch * np.uint64(self._rows) + within

    def source_counts(self, position: int) -> dict[str, int]:
        runs, within = divmod(position, self._rows)
        batch, lane = divmod(runs, len(self.parts))
        total: dict[str, int] = {}
        for number, part in enumerate(self.parts):
            rows = self._rows if number < lane else within if number == lane else 0
            for name, count in part.source_counts(batch * self._rows + rows).items():
                total[name] = total.get(name, 0) + count
        return total


def lanes_of(indices: Indices) -> tuple[Indices, ...]:
    """Return the order of each lane; without lanes, the order itself."""
    return indices.parts if isinstance(indices, Lanes) else (indices,)


def joined(lanes: Sequence[Indices], batch_size: int) -> Indices:
    """Return the order that consists of these lanes."""
    return lanes[0] if len(lanes) == 1 else Lanes(lanes, batch_size)


def deal(sizes: Int[np.ndarray, "S"], lanes: int) -> list[Int[np.ndarray, "N"]]:
    """Return the numbers of the shards of each lane, ascending; empty shards are left out.

    The shards are dealt from the largest to the smallest, those of one size by their numbers (Graham 1969, Bounds on
    Multiprocessing Timing Anomalies: the rule LPT). Each goes to the lane with the fewest examples so far, among equal
    ones to the first. So two lanes differ by no more examples than the largest shard has, and shards of one size are
    dealt in turn.
    """
    owners = np.full(len(sizes), -1)
    held = [(0, lane) for lane in range(lanes)]
    for shard in np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]:
        examples, owner = held[0]
        owners[shard] = owner
        heapq.heapreplace(held, (examples + int(sizes[shard]), owner))
    return [np.flatnonzero(owners == lane) for lane in range(lanes)]
