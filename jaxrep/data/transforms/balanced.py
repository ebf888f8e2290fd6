"""A balanced part of a pool of pairs: concepts with many pairs are thinned out, those with few are kept whole.

MetaCLIP's second half (Xu et al. 2024, Demystifying CLIP Data, arXiv:2309.16671, algorithm 1): an entry that c texts
hold is sampled with the probability min(1, t / c), independently in each text, and a pair stays if one of its entries
is. Here one draw a pair, a hash of its key, is compared with the probability that any is: the same pairs stay
whatever the order, the number of workers, or the machine; and those of a smaller t are among those of a larger one.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt32, UInt64

from jaxrep.data.orders.base import mix
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.transforms.entry_matcher import Matcher, read_entries, vocabulary
from jaxrep.data.transforms.select import Subset, WrappedSource
from jaxrep.errors import UsageError
from jaxrep.spec import spec
from jaxrep.storage import read


class Matches(NamedTuple):
    """The pairs that hold an entry, and the entries that each holds."""

    rows: UInt32[np.ndarray, "M"]  # numbers of the pairs, ascending
    digests: UInt64[np.ndarray, "M"]  # of their keys
    ends: Int64[np.ndarray, "M"]  # where the entries of each end
    entries: UInt32[np.ndarray, "N"]  # numbers of entries, those of one pair side by side

    def counts(self, kept: Bool[np.ndarray, "M"] | None = None) -> Int64[np.ndarray, "K"]:
        """How many of the pairs, or of those ``kept``, hold entry 0, 1 … up to the last that any does."""
        if kept is None:
            return np.bincount(self.entries)
        return np.bincount(self.entries[np.repeat(kept, np.diff(self.ends, prepend=0))])


def matches(found: Iterable[tuple[int, str, Sequence[int]]]) -> Matches:
    """Of (row, key, entries that its text holds), ordered by rows; pairs without an entry are left out."""
    some = [(row, digest_of(key), entries) for row, key, entries in found if entries]
    return Matches(
        np.array([row for row, _, _ in some], np.uint32),
        np.array([digest for _, digest, _ in some], np.uint64),
        np.cumsum([len(entries) for _, _, entries in some], dtype=np.int64),
        np.array([entry for _, _, entries in some for entry in entries], np.uint32),
    )


def digest_of(key: str) -> int:
    """64 bits of a key."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


def key_of(examples: Examples, index: int) -> str:
    """What a pair is called: its key, or its index."""
    return examples.key(index) if isinstance(examples, EncodedExamples) else str(index)


def probabilities(counts: Int64[np.ndarray, "K"], t: int) -> Float64[np.ndarray, "K"]:
    """How likely each entry is sampled: surely up to t texts, t of its texts on average above."""
    return t / np.maximum(counts, t)


def chances(found: Matches, probability: Float64[np.ndarray, "K"]) -> Float64[np.ndarray, "M"]:
    """How likely each pair is kept: that one of its entries at least is sampled."""
    if not len(found.rows):
        return np.zeros(0)
    starts = np.concatenate([[0], found.ends[:-1]])
    return 1 - np.multiply.reduceat(1 - probability[found.entries], starts)


def keep(found: Matches, probability: Float64[np.ndarray, "K"], seed: int) -> Bool[np.ndarray, "M"]:
    """Which pairs are kept, by a draw in [0, 1) that follows from the seed and the key."""
    bits = mix(found.digests + mix(np.array([seed], np.uint64)))
    return (bits >> np.uint64(11)) * 2.0**-53 < chances(found, probability)


@spec
class Balanced(WrappedSource):
    """A balanced part of a source, chosen when it is opened: for pools whose texts fit in memory.

    Larger ones are curated by ``jaxrep data curate``, and read by ``Curated``.
    """

    metadata: tuple[str, ...] = ()
    """Files of entries, a line each or lists in JSON; none: every word of the texts is an entry."""
    t: int = 20_000
    """Texts of an entry that are all kept; about as many of an entry that has more."""
    seed: int = 0
    """Seed of the draws."""
    text: str = "text"
    """Field of the texts; of several captions an example holds the entries of all."""

    def reads(self) -> tuple[str, ...]:
        return (self.text,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.t < 1:
            yield f"t counts texts of an entry and is at least 1, not {self.t}"
        if not 0 <= self.seed < 2**64:
            yield f"seed is a whole number from 0 to 2**64 - 1, not {self.seed}"

    def open(self) -> Examples:
        examples = self.source.open()
        texts = [(text,) if isinstance(text, str) else text for text in examples.column(self.text)]
        entries = read_entries(self.metadata) if self.metadata else vocabulary(text for some in texts for text in some)
        matcher = Matcher(entries)
        found = matches((row, key_of(examples, row), matcher(some)) for row, some in enumerate(texts))
        kept = keep(found, probabilities(found.counts(), self.t), self.seed)
        if not kept.any():
            raise UsageError(f"none of {len(texts)} texts holds one of {len(entries)} entries, so no pair is kept")
        return Subset(examples, found.rows[kept])


@spec
class Curated(WrappedSource):
    """The pairs of a source that ``jaxrep data curate`` kept; four bytes each in memory, eight from 2**32 pairs on."""

    kept: str
    """The folder of its second pass, as curated/t20000-seed0: a path or URL."""

    def open(self) -> Subset:
        examples, report = self.source.open(), json.loads(read(f"{self.kept}/curation.json"))
        if report["examples"] != len(examples):
            raise UsageError(
                f"{self.kept} tells what to keep of {report['examples']} examples, and the source has {len(examples)}"
            )
        if not report["kept"]:
            raise UsageError(f"{self.kept} keeps none of {len(examples)} examples")
        starts = range(0, len(examples), report["per_chunk"])
        with ThreadPoolExecutor(8) as pool:
            return Subset(examples, np.concatenate(list(pool.map(self._rows, range(len(starts)), starts))))

    def _rows(self, chunk: int, start: int) -> np.ndarray:
        rows = np.load(io.BytesIO(read(f"{self.kept}/{chunk:05}.npy")))
        return rows + (np.uint32(start) if start + len(rows) < 2**31 else np.int64(start))
