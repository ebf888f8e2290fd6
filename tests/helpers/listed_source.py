"""Provide orders for tests, and examples to put in them."""

from typing import Any

import numpy as np

from jaxrep.data.orders.base import Order, Shuffle
from jaxrep.data.orders.groups import Grouped
from jaxrep.data.orders.length_buckets import ByLength
from jaxrep.data.orders.neighbors import Neighbors
from jaxrep.data.orders.windows import Windowed
from jaxrep.data.source import Examples


class Listed(Examples):
    """Stand for examples by their number, the ends of their shards, and columns."""

    def __init__(self, length: int, shard_ends: Any = None, **columns: Any):
        self._length, self._columns = length, columns
        self._shard_ends = np.asarray([length] if shard_ends is None else shard_ends, np.int64)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: values[index] for name, values in self._columns.items()}

    @property
    def shard_ends(self) -> np.ndarray:
        return self._shard_ends

    def column(self, name: str) -> Any:
        return self._columns[name]

    def sizes(self, name: str) -> Any:
        return self._columns[name]


def listed(length: int, seed: int) -> Listed:
    """Return examples in uneven shards, some of them empty, of classes of uneven size, with random neighbors."""
    rng = np.random.default_rng(seed)
    ends = np.append(np.sort(rng.integers(0, length + 1, rng.integers(0, 9))), length)
    label = rng.integers(0, rng.integers(1, 12), length) ** 2
    text = rng.integers(0, rng.integers(1, 99), length)
    return Listed(length, ends, label=label, text=text, neighbors=rng.integers(-1, length, (length, 3)))


def orders(seed: int, size: int) -> list[Order]:
    """Return one order of each kind. ``size``: shards of a window, examples of a group, neighbors."""
    return [
        Shuffle(seed=seed),
        Windowed(seed=seed, shards=size),
        Grouped(seed=seed, per_group=size),
        Neighbors(seed=seed, k=size),
        ByLength(seed=seed, buckets=((20, 8), (60, 16))),
    ]


def positions(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.uint64)
