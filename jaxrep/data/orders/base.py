"""In which order examples are read: a pure function of seed and position, so that any position can be resumed.

A position counts examples from the start of training and runs on across epochs. Nothing is stored: the order of ten
billion examples takes as much memory as that of ten.
"""

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int, UInt64

from jaxrep.spec import replace, spec

_ROUNDS = 8
NEAR = 2**16
"""What stands in for a bad sample comes at most so many places after it in the order, so that its shard is near."""
EPOCHS = 2
"""How many epochs' plans an order that makes such keeps at a time: a batch may lie across the border of two."""


class Indices:
    """Abstract: positions uint64 [B] -> indices of examples int64 [B]. It pickles, so that loader workers can have
    it."""

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        raise TypeError(f"{type(self).__name__} does not say in which order examples come")

    def instead(self, position: int, attempt: int) -> int:
        """The index to try in place of an example that cannot be read; ``attempt`` counts from 1.

        A function of the position alone, so that a run that goes on makes the same choice.
        """
        away = mix(mix(np.array([position], np.uint64)) + np.uint64(attempt)) % np.uint64(NEAR)
        return int(self(np.uint64(position + 1) + away)[0])

    def tokens(self, position: int) -> int:
        """Tokens of each text of the batch that a position lies in; 0: as many as the tokenizer declares."""
        return 0

    def counts(self, position: int) -> dict[str, int]:
        """How many examples before a position are of each source of a mixture; without one it is empty."""
        return {}


class Indexed(Protocol):
    """What is put in an order: a number of examples, where each shard of them ends, columns, and lengths of texts."""

    def __len__(self) -> int: ...

    @property
    def ends(self) -> np.ndarray: ...

    def column(self, name: str) -> Any: ...

    def sizes(self, name: str) -> np.ndarray: ...


@spec
class Order:
    """Abstract: the declaration of an order."""

    seed: int = 0
    """Seed of the shuffling; nothing else depends on it."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """Numbers of tokens that texts of a batch may have beside the one that the tokenizer declares."""
        return ()

    def block(self, batch_size: int) -> int:
        """How many examples in a row belong together; they are not parted by a mixture or by the end of a batch."""
        return 1

    def problems(self) -> Iterator[str]:
        if not 0 <= self.seed < 2**64:
            yield f"seed is a whole number from 0 to 2**64 - 1, not {self.seed}"

    def over(self, examples: Indexed, batch_size: int) -> Indices:
        """The order of these examples. Raises ValueError where there is none."""
        raise TypeError(f"{type(self).__name__} does not say in which order examples come")

    def at(self, name: str) -> "Order":
        """The same order with a seed of its own, for one source of a mixture."""
        own = mix(mix(np.array([self.seed], np.uint64)) + np.uint64(zlib.crc32(name.encode())))
        return replace(self, seed=int(own[0]))


@spec
class Shuffle(Order):
    """Every example once an epoch, each epoch in a random order of its own."""

    def over(self, examples: Indexed, batch_size: int) -> Indices:
        return ShuffledIndices(self.seed, some(examples))


@dataclasses.dataclass(frozen=True)
class ShuffledIndices(Indices):
    """``Shuffle`` over ``length`` examples."""

    seed: int
    length: int

    def __call__(self, positions: UInt64[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        epochs, places = np.divmod(np.asarray(positions, np.uint64), np.uint64(self.length))
        return permute(places, self.length, epoch_keys(self.seed, epochs)).astype(np.int64)


def some(examples: Indexed) -> int:
    """The number of examples. Raises ValueError where there is none."""
    if not len(examples):
        raise ValueError("there are no examples to put in an order")
    return len(examples)


def epoch_keys(seed: int, epochs: UInt64[np.ndarray, "B"]) -> UInt64[np.ndarray, "B"]:
    """A key an epoch; with a place's position for the epoch, a key a place."""
    return mix(mix(np.full_like(epochs, seed)) + epochs)


def permute(
    values: UInt64[np.ndarray, "B"], length: int | UInt64[np.ndarray, "B"], keys: UInt64[np.ndarray, "B"]
) -> UInt64[np.ndarray, "B"]:
    """Each of ``values`` in the pseudo-random permutation of 0 … length - 1 that its key names.

    A Feistel network on the grid a x b that just holds ``length``, walked on until it is inside (Black & Rogaway
    2002, Ciphers with Arbitrary Finite Domains, sections 5 and 4). A library's shuffle could change between versions;
    a run's order may not.
    """
    # About square, so that few places lie outside; a side below 4 would leave too few permutations to choose from.
    length = np.broadcast_to(np.asarray(length, np.uint64), values.shape)
    a = np.maximum(np.sqrt(length).astype(np.uint64), np.uint64(4))
    b = np.maximum((length + a - np.uint64(1)) // a, np.uint64(4))
    values = _rounds(values, a, b, keys)
    while (outside := np.flatnonzero(values >= length)).size:
        values[outside] = _rounds(values[outside], a[outside], b[outside], keys[outside])
    return values


def _rounds(values: np.ndarray, a: np.ndarray, b: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(values, b)
    for number in range(0, _ROUNDS, 2):
        left = (left + mix(keys + mix(right + np.uint64(number << 48))) % a) % a
        right = (right + mix(keys + mix(left + np.uint64(number + 1 << 48))) % b) % b
    return left * b + right


def mix(x: UInt64[np.ndarray, "B"]) -> UInt64[np.ndarray, "B"]:
    """SplitMix64's step and finalizer (Steele, Lea & Flood 2014): 64 bits to 64 bits, every bit depends on all."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
