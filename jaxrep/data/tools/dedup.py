"""Find images that occur twice, as the same file or nearly the same image, within a data set or in two.

A perceptual hash has 64 bits, of which few differ between an image and its copies (recompressed, resized, marked).
Two hashes at most ``d`` bits apart are equal in at least one of d + 1 bands, so only hashes that share a band are
compared (Manku et al. 2007, Detecting Near-Duplicates for Web Crawling, section 3).
"""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import cv2
import numpy as np
import scipy.sparse
from jaxtyping import Int, UInt8, UInt64

from jaxrep.data.images.crop import HostResize
from jaxrep.data.images.decode import decode_image
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tools.reading import Failures, read_all
from jaxrep.data.transforms.balance import key_of

Kind = Literal["dhash", "phash"]
SIDE = 32
"""Pixels of the resized image that is hashed."""


@dataclasses.dataclass(frozen=True)
class Fingerprints:
    """Hold hashes of the images of a data set, of those that can be read."""

    examples: Examples
    indices: Int[np.ndarray, "N"]
    digests: UInt64[np.ndarray, "N"]  # of the file; equal files have equal digests
    hashes: UInt64[np.ndarray, "N"]  # perceptual
    bad: Counter[str]  # number of images that cannot be read, by reason

    def key(self, number: int) -> str:
        """Return the key of an image, or the index of its example."""
        return key_of(self.examples, int(self.indices[number]))


def fingerprint(examples: Examples, kind: Kind = "dhash") -> Fingerprints:
    """Read and hash every image once."""
    hash_pixels, failures = {"dhash": dhash, "phash": phash}[kind], Failures()
    rows = read_all(
        lambda i: _hash(examples, i, hash_pixels), range(len(examples)), "hashing", failures, ahead=examples
    )
    hashed = list(rows)
    return Fingerprints(
        examples,
        np.array([index for index, _ in hashed], np.int64),
        np.array([digest for _, (digest, _) in hashed], np.uint64),
        np.array([pixels for _, (_, pixels) in hashed], np.uint64),
        failures.counts,
    )


def _hash(examples: Examples, index: int, hash_pixels: Callable[[np.ndarray], int]) -> tuple[int, int]:
    if isinstance(examples, EncodedExamples):
        with examples.explain_errors(index, "image"):
            content: Any = examples.content(index, "image")
            pixels = decode_image(content, SIDE, SIDE, HostResize())
    else:
        pixels = examples[index]["image"]
        content = pixels.tobytes()
        pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"), hash_pixels(pixels)


def dhash(pixels: UInt8[np.ndarray, "H W 3"]) -> int:
    """Hash to 64 bits: which of 8 x 9 gray cells exceed their left neighbor (Krawetz 2013, Kind of Like That)."""
    gray = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return _pack_bits(gray[:, 1:] > gray[:, :-1])


def phash(pixels: UInt8[np.ndarray, "H W 3"]) -> int:
    """Hash to 64 bits: which of the 8 x 8 lowest frequencies of 32 x 32 cells' cosine transform exceed their median."""
    gray = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(gray.astype(np.float32))[:8, :8]
    return _pack_bits(low > np.median(low))


def _pack_bits(bits: np.ndarray) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near(hashes: UInt64[np.ndarray, "N"], distance: int) -> Iterator[Int[np.ndarray, "P 2"]]:
    """Yield pairs of numbers whose hashes differ in at most ``distance`` bits; a pair may come more than once."""
    edges = np.linspace(0, 64, distance + 2).astype(int)
    for low, high in itertools.pairwise(edges.tolist()):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        band, sorted_hashes = band[order], hashes[order]
        for step in range(1, len(hashes)):
            same = np.flatnonzero(band[step:] == band[:-step])
            if not len(same):
                break
            close = same[np.bitwise_count(sorted_hashes[same] ^ sorted_hashes[same + step]) <= distance]
            if len(close):
                yield np.stack([order[close], order[close + step]], axis=1)


def groups(hashes: UInt64[np.ndarray, "N"], distance: int = 0) -> list[list[int]]:
    """Group hashes that a chain joins, in which neighbors are at most ``distance`` bits apart.

    Groups have at least two numbers and are sorted; they are ordered by their first numbers.
    """
    unique, which = np.unique(hashes, return_inverse=True)
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *(near(unique, distance) if distance else ())])
    graph = scipy.sparse.coo_matrix((np.ones(len(pairs), bool), pairs.T), shape=(len(unique), len(unique)))
    _, component = scipy.sparse.csgraph.connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for number, label in enumerate(component[which].tolist()):
        members.setdefault(label, []).append(number)
    return [group for group in members.values() if len(group) > 1]


def shared(a: UInt64[np.ndarray, "N"], b: UInt64[np.ndarray, "M"], distance: int) -> list[tuple[int, int]]:
    """Return (number in ``a``, number in ``b``) for each hash of ``b`` near one of ``a``, with the first such one."""
    first = {value: number for number, value in reversed(list(enumerate(a.tolist())))}
    values, nearest = np.unique(np.concatenate([a, b])), dict(first)
    for pairs in near(values, distance) if distance else ():
        for x, y in values[np.concatenate([pairs, pairs[:, ::-1]])].tolist():
            if y in first:
                nearest[x] = min(nearest.get(x, len(a)), first[y])
    return [(nearest[value], number) for number, value in enumerate(b.tolist()) if value in nearest]
