"""Permute 0 … length - 1 by a key, one position at a time, without storing the permutation."""

import numpy as np
from jaxtyping import UInt64

from jaxrep.data._util.hashing import splitmix64

_ROUNDS = 8


def epoch_keys(seed: int, epochs: UInt64[np.ndarray, "B"]) -> UInt64[np.ndarray, "B"]:
    """Return one key per epoch."""
    return splitmix64(splitmix64(np.full_like(epochs, seed)) + epochs)


def epochs_and_places(positions: UInt64[np.ndarray, "B"], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the epoch of each position, and the place in that epoch, both uint64 [B]."""
    return np.divmod(np.asarray(positions, np.uint64), np.uint64(length))


def permute(
    values: UInt64[np.ndarray, "B"], length: int | UInt64[np.ndarray, "B"], keys: UInt64[np.ndarray, "B"]
) -> UInt64[np.ndarray, "B"]:
    """Map each of ``values`` by the pseudo-random permutation of 0 … length - 1 that belongs to its key.

    A Feistel network permutes the smallest grid a x b that holds ``length``. It is repeated for values outside of
    ``length`` (Black & Rogaway 2002, Ciphers with Arbitrary Finite Domains, sections 5 and 4). A library's shuffle
    could change between versions; the order of a run must not.
    """
    # About square, so that few places lie outside; a side below 4 would leave too few permutations to choose from.
    length = np.broadcast_to(np.asarray(length, np.uint64), values.shape)
    a = np.maximum(np.sqrt(length).astype(np.uint64), np.uint64(4))
    b = np.maximum((length + a - np.uint64(1)) // a, np.uint64(4))
    values = _feistel(values, a, b, keys)
    while (outside := np.flatnonzero(values >= length)).size:
        values[outside] = _feistel(values[outside], a[outside], b[outside], keys[outside])
    return values


def _feistel(values: np.ndarray, a: np.ndarray, b: np.ndarray, keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(values, b)
    for number in range(0, _ROUNDS, 2):
        left = (left + splitmix64(keys + splitmix64(right + np.uint64(number << 48))) % a) % a
        right = (right + splitmix64(keys + splitmix64(left + np.uint64(number + 1 << 48))) % b) % b
    return left * b + right
