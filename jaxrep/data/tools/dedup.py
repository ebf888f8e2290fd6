"""Pictures that occur twice: the same file, or nearly the same picture; within a data set, or in two.

A perceptual hash has 64 bits, of which few differ between a picture and its copies (recompressed, resized, marked).
Hashes at most ``d`` bits apart agree in one of d + 1 bands at least, so only those that share a band are compared
(Manku et al. 2007, Detecting Near-Duplicates for Web Crawling, section 3).
"""

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Int, UInt8, UInt64

from jaxrep.data.images.crop import HostResize
from jaxrep.data.images.image import image
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tools.try_each import reason, try_each
from jaxrep.errors import BadSample

Kind = Literal["dhash", "phash"]
SIDE = 32
"""Pixels of the squashed picture that is hashed."""


@dataclasses.dataclass(frozen=True)
class Prints:
    """What identifies the pictures of a data set, of those that can be read."""

    indices: Int[np.ndarray, "N"]
    digests: UInt64[np.ndarray, "N"]  # of the file; equal files have equal ones
    hashes: UInt64[np.ndarray, "N"]  # perceptual
    bad: Counter[str]  # why others cannot be read


def prints(examples: Examples, kind: Kind = "dhash") -> Prints:
    """Reads every picture once."""
    hashed = {"dhash": dhash, "phash": phash}[kind]
    indices, digests, hashes, bad = [], [], [], Counter()
    for index, found in enumerate(try_each(lambda i: _one(examples, i, hashed), len(examples), "hashing")):
        if isinstance(found, tuple):
            indices.append(index)
            digests.append(found[0])
            hashes.append(found[1])
        else:
            bad[reason(found)] += 1
    return Prints(np.array(indices, np.int64), np.array(digests, np.uint64), np.array(hashes, np.uint64), bad)


def _one(examples: Examples, index: int, hashed: Callable[[np.ndarray], int]) -> tuple[int, int]:
    if isinstance(examples, EncodedExamples):
        content = examples.content(index, "image")
        try:
            pixels = image(content, SIDE, SIDE, HostResize())
        except ValueError as error:
            raise BadSample(examples.place(index, "image"), str(error)) from error
    else:
        pixels = examples[index]["image"]
        content = pixels.tobytes()
        pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"), hashed(pixels)


def dhash(pixels: UInt8[np.ndarray, "H W 3"]) -> int:
    """64 bits: of 8 x 9 grey cells, which is brighter than its left neighbor (Krawetz 2013, Kind of Like That)."""
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16)
    return _bits(grey[:, 1:] > grey[:, :-1])


def phash(pixels: UInt8[np.ndarray, "H W 3"]) -> int:
    """64 bits: which of the 8 x 8 lowest frequencies of the cosine transform of 32 x 32 cells exceed their median."""
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(grey.astype(np.float32))[:8, :8]
    return _bits(low > np.median(low))


def _bits(bits: np.ndarray) -> int:
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near(hashes: UInt64[np.ndarray, "N"], distance: int) -> Iterator[Int[np.ndarray, "P 2"]]:
    """Pairs of different places whose hashes differ in at most ``distance`` bits; a pair may come more than once."""
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
    """Places that belong together, since a chain of hashes, each at most ``distance`` bits from the next, joins them.

    Groups of two and more, each sorted, ordered by their first places.
    """
    unique, which = np.unique(hashes, return_inverse=True)
    leader = np.arange(len(unique))

    def find(node: int) -> int:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = int(leader[node])
        return node

    for pairs in near(unique, distance) if distance else ():
        for a, b in pairs:
            leader[find(int(a))] = find(int(b))
    found: dict[int, list[int]] = {}
    for place, number in enumerate(which):
        found.setdefault(find(int(number)), []).append(place)
    return [group for group in found.values() if len(group) > 1]


def shared(a: UInt64[np.ndarray, "N"], b: UInt64[np.ndarray, "M"], distance: int) -> list[tuple[int, int]]:
    """(place in ``a``, place in ``b``) of each place of ``b`` that has a like in ``a``, and of the first such one."""
    first: dict[int, int] = {}
    for place, value in reversed(list(enumerate(a.tolist()))):
        first[value] = place
    values = np.unique(np.concatenate([a, b]))
    likes = {value: {value} for value in set(b.tolist())}
    for pairs in near(values, distance) if distance else ():
        for x, y in values[pairs].tolist():
            for left, right in ((x, y), (y, x)):
                if left in likes:
                    likes[left].add(right)
    found = [(min((first[v] for v in likes[value] if v in first), default=-1), n) for n, value in enumerate(b.tolist())]
    return [pair for pair in found if pair[0] >= 0]
