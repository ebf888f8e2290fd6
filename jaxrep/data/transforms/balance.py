"""Balance a pool of pairs over concepts: sample frequent concepts, and keep all pairs of rare ones.

MetaCLIP's second half (Xu et al. 2024, Demystifying CLIP Data, arXiv:2309.16671, algorithm 1): an entry in c texts is
sampled with the probability min(1, t / c), independently in each text, and a pair is kept if one of its entries is
sampled. Here one draw per pair, a hash of its key, is compared with the probability that any entry is sampled. So the
same pairs are kept in any order, with any number of workers, on any machine; a smaller t keeps a subset of a larger t.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt32, UInt64

from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.source import Examples, as_captions
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.transforms.base import SubsetSource
from jaxrep.data.transforms.entry_matcher import Matcher, read_entries, vocabulary
from jaxrep.errors import UsageError
from jaxrep.npy import read_npy
from jaxrep.spec import Count, Range, spec
from jaxrep.storage import read_bytes


class Matches(NamedTuple):
    """Hold the pairs that have an entry, and the entries of each."""

    rows: UInt32[np.ndarray, "M"]  # numbers of the pairs, ascending
    digests: UInt64[np.ndarray, "M"]  # hashes of the keys
    ends: Int64[np.ndarray, "M"]  # end of each pair's entries
    entries: UInt32[np.ndarray, "N"]  # numbers of entries, those of one pair in sequence

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, str, Sequence[int]]]) -> "Matches":
        """Collect (row, key, entries of the text) in ascending order of rows; pairs without an entry are left out."""
        matched = [(row, digest_of(key), entries) for row, key, entries in pairs if entries]
        return cls(
            np.array([row for row, _, _ in matched], np.uint32),
            np.array([digest for _, digest, _ in matched], np.uint64),
            np.cumsum([len(entries) for _, _, entries in matched], dtype=np.int64),
            np.array([entry for _, _, entries in matched for entry in entries], np.uint32),
        )

    def counts(self, kept: Bool[np.ndarray, "M"] | None = None) -> Int64[np.ndarray, "K"]:
        """Count the pairs, or those ``kept``, that have entry 0, 1 … up to the last entry of any pair."""
        if kept is None:
            return np.bincount(self.entries)
        return np.bincount(self.entries[np.repeat(kept, np.diff(self.ends, prepend=0))])


def digest_of(key: str) -> int:
    """Hash a key to 64 bits."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest(), "little")


def key_of(examples: Examples, index: int) -> str:
    """Return the key of a pair, or its index if it has no key."""
    return examples.key(index) if isinstance(examples, EncodedExamples) else str(index)


def probabilities(counts: Int64[np.ndarray, "K"], t: int) -> Float64[np.ndarray, "K"]:
    """Return the probability that each entry is sampled: 1 up to t texts, above that t of its texts on average."""
    return t / np.maximum(counts, t)


def pair_probabilities(matches: Matches, probability: Float64[np.ndarray, "K"]) -> Float64[np.ndarray, "M"]:
    """Return the probability that each pair is kept: that at least one of its entries is sampled."""
    if not len(matches.rows):
        return np.zeros(0)
    starts = np.concatenate([[0], matches.ends[:-1]])
    return 1 - np.multiply.reduceat(1 - probability[matches.entries], starts)


def keep(matches: Matches, probability: Float64[np.ndarray, "K"], seed: int) -> Bool[np.ndarray, "M"]:
    """Choose the pairs to keep by a draw in [0, 1) that follows from the seed and the key."""
    bits = splitmix64(matches.digests + splitmix64(np.array([seed], np.uint64)))
    return (bits >> np.uint64(11)) * 2.0**-53 < pair_probabilities(matches, probability)


@spec
class BalanceConcepts(SubsetSource):
    """Keep a balanced part of a source, chosen when it is opened, for pools whose texts fit in memory.

    Curate larger pools by ``jaxrep data curate`` and read them by ``TakeCurated``.
    """

    metadata: tuple[str, ...] = ()
    """Files of entries, one per line or lists in JSON; empty: every word of the texts is an entry."""
    t: Count = 20_000
    """Number of texts per entry that are all kept; of an entry with more texts, about this many are kept."""
    seed: Annotated[int, Range(0, 2**64 - 1)] = 0
    """Seed of the draws."""
    text: str = "text"
    """Field of the texts; an example with several captions has the entries of all."""

    def reads(self) -> tuple[str, ...]:
        return (self.text,)

    def indices(self, examples: Examples) -> np.ndarray:
        texts = [as_captions(value) for value in examples.column(self.text)]
        entries = read_entries(self.metadata) if self.metadata else vocabulary(text for some in texts for text in some)
        matcher = Matcher(entries)
        matched = Matches.of((row, key_of(examples, row), matcher(some)) for row, some in enumerate(texts))
        kept = keep(matched, probabilities(matched.counts(), self.t), self.seed)
        if not kept.any():
            raise UsageError(f"none of {len(texts)} texts has one of {len(entries)} entries, so no pair is kept")
        return matched.rows[kept]


@spec
class TakeCurated(SubsetSource):
    """Take the pairs of a source that ``jaxrep data curate`` kept."""

    kept: str
    """Folder of the second pass, such as curated/t20000-seed0: a path or URL."""

    def indices(self, examples: Examples) -> np.ndarray:
        try:
            report = json.loads(read_bytes(f"{self.kept}/curation.json"))
            starts = range(0, report["examples"], report["per_chunk"])
            with ThreadPoolExecutor(8) as pool:
                rows = np.concatenate(list(pool.map(self._rows, range(len(starts)), starts)))
            if (rows[1:] <= rows[:-1]).any() or (rows >= starts.stop).any():
                raise ValueError("its pairs are not numbers of examples in ascending order")
        except (ValueError, LookupError, TypeError, EOFError, MemoryError) as error:
            raise UsageError(f"{self.kept} holds no curation that can be read ({error!r}): curate again") from error
        if starts.stop != len(examples):
            raise UsageError(f"{self.kept} was curated from {starts.stop} examples, and the source has {len(examples)}")
        return rows

    def _rows(self, chunk: int, start: int) -> np.ndarray:
        rows = read_npy(io.BytesIO(read_bytes(f"{self.kept}/{chunk:05}.npy")))
        return rows + (np.uint32(start) if start + len(rows) < 2**31 else np.int64(start))
