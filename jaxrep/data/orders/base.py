"""Declare the order of examples: a pure function of seed and position, so that any position can be resumed.

A position counts examples from the start of training, across epochs. ``Shuffle`` stores nothing: the order of ten
billion examples takes as much memory as that of ten.
"""

import abc
import dataclasses
import zlib
from collections.abc import Iterator, Sequence
from typing import Annotated, Generic, TypeVar

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.data._util.hashing import splitmix64
from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.orders.permutation import epoch_keys, epochs_and_places, permute
from jaxrep.data.source import Examples
from jaxrep.spec import Range, replace, spec

SUBSTITUTE_DISTANCE = 2**16
"""Largest distance in the order from a bad sample to its substitute, so that the substitute's shard is in memory."""
CACHED_EPOCHS = 2
"""Epochs whose plans are in memory at a time: a batch may cross the border of two epochs."""

Plan = TypeVar("Plan")


class Indices(abc.ABC):
    """Map positions uint64 [B] to indices of examples int64 [B]. Indices pickle, for loader workers."""

    reach: int = SUBSTITUTE_DISTANCE
    """Distance within which the first substitutes lie; every eighth attempt doubles it, up to SUBSTITUTE_DISTANCE."""

    @abc.abstractmethod
    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """Return the indices of the examples at ``positions``."""

    def substitute(self, position: int, attempt: int) -> int:
        """Return the index to try if the example at ``position`` cannot be read; ``attempt`` counts from 1.

        It depends on the position and the attempt alone, so that a resumed run makes the same choice.
        """
        position_key = splitmix64(np.array([position], np.uint64))
        reach = min(self.reach << attempt // 8, SUBSTITUTE_DISTANCE)
        distance = splitmix64(position_key + np.uint64(attempt)) % np.uint64(reach)
        return int(self(np.uint64(position + 1) + distance)[0])

    def text_length(self, position: int) -> int:
        """Return the tokens per text of the batch around ``position``; 0: the length of the tokenizer."""
        return 0

    def source_counts(self, position: int) -> dict[str, int]:
        """Return the examples before ``position`` per source of a mixture; empty without a mixture."""
        return {}


@spec
class Order(abc.ABC):
    """Declare an order of examples."""

    seed: Annotated[int, Range(0, below=2**64)] = 0
    """Seed of the shuffling; nothing else depends on it."""

    @property
    def text_lengths(self) -> tuple[int, ...]:
        """Numbers of tokens per text that a batch may have, besides the length of the tokenizer."""
        return ()

    @property
    def batch_unit(self) -> int:
        """Number of examples of which a batch must be a multiple."""
        return 1

    def block_size(self, batch_size: int) -> int:
        """Return the number of consecutive examples that neither a mixture nor the end of a batch separates."""
        return 1

    @property
    def shard_lanes(self) -> int:
        """Number of equal parts of a batch, each of which reads shards of its own; 0: the order knows no shards."""
        return 0

    def batch_problems(self, batch_size: int) -> Iterator[str]:
        """Yield a sentence on each reason why batches of this size do not fit the order."""
        if self.batch_unit > 0 and batch_size % self.batch_unit:
            yield f"batch_size is {batch_size}, which cuts groups of {self.batch_unit}: take a multiple of it"

    @abc.abstractmethod
    def indices(self, examples: Examples, batch_size: int) -> Indices:
        """Return the indices of ``examples`` in this order.

        Raises:
            ValueError: there are no examples.
            UsageError: the examples do not fit the order.
        """

    def for_source(self, name: str) -> "Order":
        """Return the same order with another seed, for one source of a mixture."""
        name_hash = np.uint64(zlib.crc32(name.encode()))
        (seed,) = splitmix64(splitmix64(np.array([self.seed], np.uint64)) + name_hash)
        return replace(self, seed=int(seed))


@spec
class Shuffle(Order):
    """Read every example once per epoch, in a new random order in each epoch."""

    def indices(self, examples: Examples, batch_size: int) -> Indices:
        return ShuffledIndices(self.seed, require_examples(examples))


@dataclasses.dataclass(frozen=True)
class ShuffledIndices(Indices):
    """Compute ``Shuffle`` over ``length`` examples."""

    seed: int
    length: int

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        epochs, places = epochs_and_places(positions, self.length)
        return permute(places, self.length, epoch_keys(self.seed, epochs)).astype(np.int64)


class PlannedIndices(Indices, Generic[Plan]):
    """Compute an order of ``length`` examples from one plan per epoch."""

    def __init__(self, seed: int, length: int):
        self._seed, self._length = seed, length
        self._plans: LruCache[Plan] = LruCache(CACHED_EPOCHS)

    @abc.abstractmethod
    def plan(self, key: np.uint64) -> Plan:
        """Return the plan of the epoch with this key."""

    @abc.abstractmethod
    def read_plan(self, plan: Plan, places: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """Return the indices of the examples at some places of an epoch."""

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        epochs, places = epochs_and_places(positions, self._length)
        indices = np.empty(places.shape, np.int64)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            plan = self._plans.get(int(epoch), lambda epoch=epoch: self.plan(epoch_keys(self._seed, epoch[None])[0]))
            indices[rows] = self.read_plan(plan, places[rows])
        return indices


class JoinedIndices(Indices):
    """Take the example at each position from one of several orders.

    A subclass gives ``places``: the order of each position, and the position in that order.
    """

    def __init__(self, parts: Sequence[Indices], starts: Sequence[int] | Int[np.ndarray, "P"]):
        """Join ``parts``, the first examples of which have the indices ``starts``."""
        self.parts, self._starts = tuple(parts), np.asarray(starts, np.int64)

    @abc.abstractmethod
    def places(self, positions: UInt64[np.ndarray, "B"]) -> tuple[Int[np.ndarray, "B"], UInt64[np.ndarray, "B"]]:
        """Return the number of the part of each position, and the position in the order of that part."""

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        parts, places = self.places(np.asarray(positions, np.uint64))
        indices = np.empty(places.shape, np.int64)
        for part in np.unique(parts):
            rows = parts == part
            indices[rows] = self._starts[part] + self.parts[part](places[rows])
        return indices

    def _place(self, position: int) -> tuple[int, int]:
        (part,), (place,) = self.places(np.array([position], np.uint64))
        return int(part), int(place)

    def substitute(self, position: int, attempt: int) -> int:
        part, place = self._place(position)
        return int(self._starts[part]) + self.parts[part].substitute(place, attempt)

    def text_length(self, position: int) -> int:
        part, place = self._place(position)
        return self.parts[part].text_length(place)


def require_examples(examples: Examples) -> int:
    """Return the number of examples. Raises ValueError: there are none."""
    if not len(examples):
        raise ValueError("there are no examples to put in an order")
    return len(examples)
