"""An order for more examples than fit a list: shards at random, then all examples of a few shards at random.

Whatever the number of examples, it needs a few numbers a shard; and what is read at about the same time lies in the
shards of one window, so that indices are loaded and files are fetched when they are near.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.orders.base import EPOCHS, Indexed, Indices, Order, epoch_keys, mix, permute, some
from jaxrep.spec import spec


@spec
class Windowed(Order):
    """Every example once an epoch: shards in a random order, then what a window of them holds in a random order."""

    shards: int = 64
    """Shards of a window: more mix better, fewer keep less of an index in memory."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.shards < 1:
            yield f"shards counts the shards of a window and is at least 1, not {self.shards}"

    def over(self, examples: Indexed, batch_size: int) -> Indices:
        some(examples)
        return ShuffledWindows(self.seed, np.asarray(examples.ends, np.int64), self.shards)


class ShuffledWindows(Indices):
    """``Windowed`` over shards that end at ``ends`` [S]."""

    def __init__(self, seed: int, ends: Int[np.ndarray, "S"], shards: int):
        self._seed, self._shards = seed, shards
        self._starts = np.concatenate([[0], ends])  # of each shard among the examples
        self._epochs: LruCache[_Epoch] = LruCache(EPOCHS)

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        epochs, places = np.divmod(np.asarray(positions, np.uint64), np.uint64(self._starts[-1]))
        indices = np.empty(places.shape, np.int64)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            indices[rows] = self._within(self._plan(int(epoch)), places[rows].astype(np.int64))
        return indices

    def _within(self, epoch: "_Epoch", places: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        window = np.searchsorted(epoch.windows, places, side="right") - 1
        start, size = epoch.windows[window], np.diff(epoch.windows)[window]
        keys = mix(epoch.key + window.astype(np.uint64))
        place = start + permute((places - start).astype(np.uint64), size.astype(np.uint64), keys).astype(np.int64)
        slot = np.searchsorted(epoch.starts, place, side="right") - 1
        return self._starts[epoch.shards[slot]] + place - epoch.starts[slot]

    def _plan(self, epoch: int) -> "_Epoch":
        return self._epochs.get(epoch, lambda: self._epoch(epoch))

    def _epoch(self, epoch: int) -> "_Epoch":
        (key,) = epoch_keys(self._seed, np.array([epoch], np.uint64))
        shards = np.arange(len(self._starts) - 1, dtype=np.uint64)
        shards = permute(shards, len(shards), np.full_like(shards, key)).astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(np.diff(self._starts)[shards])])
        return _Epoch(key, shards, starts, np.append(starts[: -1 : self._shards], starts[-1]))


@dataclasses.dataclass(frozen=True)
class _Epoch:
    key: np.uint64
    shards: np.ndarray  # [S]: which shard is the s-th of this epoch
    starts: np.ndarray  # [S+1]: place in the epoch at which it starts
    windows: np.ndarray  # [W+1]: place at which each window starts
