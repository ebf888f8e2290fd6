"""Order more examples than fit a list: shuffle the shards, then all examples of a few shards at a time.

The memory is a few numbers per shard, for any number of examples. Examples that are read at about the same time lie in
the shards of one window, so that few indices and files are in use at a time.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.orders.base import Indices, Order, PlannedIndices, require_examples
from jaxrep.data.orders.permutation import permute
from jaxrep.data.source import Examples
from jaxrep.spec import Count, spec


@spec
class Windowed(Order):
    """Read every example once per epoch: shards in a random order, then the examples of each window of shards."""

    shards: Count = 64
    """Shards per window: more mix better, fewer keep less of an index in memory."""

    def indices(self, examples: Examples, batch_size: int) -> Indices:
        require_examples(examples)
        return ShuffledWindows(self.seed, np.asarray(examples.shard_ends, np.int64), self.shards)


class WindowPlan(NamedTuple):
    """Hold the shards and windows of an epoch."""

    key: np.uint64
    shards: Int[np.ndarray, "S"]
    """The shards in the order of this epoch."""
    starts: Int[np.ndarray, "S+1"]
    """Place in the epoch at which each of them starts, and the end."""
    windows: Int[np.ndarray, "W+1"]
    """Place at which each window starts, and the end."""


class ShuffledWindows(PlannedIndices[WindowPlan]):
    """Compute ``Windowed`` over shards that end at ``shard_ends`` [S]."""

    def __init__(self, seed: int, shard_ends: Int[np.ndarray, "S"], shards: int):
        super().__init__(seed, int(shard_ends[-1]))
        self._shards = shards
        self._starts = np.concatenate([[0], shard_ends])  # of each shard among the examples

    def plan(self, key: np.uint64) -> WindowPlan:
        shards = np.arange(len(self._starts) - 1, dtype=np.uint64)
        shards = permute(shards, len(shards), np.full_like(shards, key)).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(np.diff(self._starts)[shards])])
        return WindowPlan(key, shards, starts, np.append(starts[: -1 : self._shards], starts[-1]))

    def read_plan(self, plan: WindowPlan, places: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        window = np.searchsorted(plan.windows, places, side="right") - 1
        start, size = plan.windows[window].astype(np.uint64), np.diff(plan.windows)[window].astype(np.uint64)
        keys = splitmix64(plan.key + window.astype(np.uint64))
        place = (start + permute(places - start, size, keys)).astype(np.int64)
        slot = np.searchsorted(plan.starts, place, side="right") - 1
        return self._starts[plan.shards[slot]] + place - plan.starts[slot]
