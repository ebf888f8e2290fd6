"""Hash contents to ids, and numbers to pseudo-random numbers: the same in every version and on every machine."""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int32, UInt64


def splitmix64(x: UInt64[np.ndarray, "B"]) -> UInt64[np.ndarray, "B"]:
    """Map 64 bits to 64 bits, each of which depends on all.

    This is SplitMix64's step and finalizer (Steele, Lea & Flood 2014).
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def content_id(content: bytes) -> np.int32:
    """Return 31 bits of the content's SHA-256 digest, for which processors have instructions.

    Two different contents share an id with probability 2**-31: in a batch of 32,768, a quarter of a pair.
    """
    return np.int32(int.from_bytes(hashlib.sha256(content).digest()[:4], "little") & 0x7FFFFFFF)


def content_ids(texts: Iterable[str]) -> Int32[np.ndarray, "B"]:
    """Return the ids of the contents of texts; a lone half of a surrogate pair counts as a question mark."""
    return np.array([content_id(text.encode(errors="replace")) for text in texts], np.int32)


def text_id(content: bytes) -> np.int32:
    """Return the id of a text, without white space around it."""
    return content_id(content.strip())
