"""Balance a pool of any size over metadata in two passes (Xu et al. 2024, arXiv:2309.16671, algorithm 1).

The pool is split into chunks of consecutive examples. The first pass matches texts with entries and counts the texts of
each entry; the second draws the pairs to keep. The result of a pass on a chunk is a file that is written atomically. So
any process of any machine can work on any chunk, and an interrupted curation continues::

    FOLDER/plan.json                       the pool and the metadata
    FOLDER/matches/00000.npz …             first pass: ``Matches`` of a chunk, for any t and seed
    FOLDER/counts.npy                      texts of each entry, int64 [K]
    FOLDER/t20000-seed0/00000.npy …        second pass: numbers in the chunk of the pairs that are kept, uint32
    FOLDER/t20000-seed0/curation.json      the report
"""

import dataclasses
import functools
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxrep.data._util.parallel import parallel_map
from jaxrep.data.source import Source
from jaxrep.data.tools.reading import Failures, opened, read_all, read_texts
from jaxrep.data.tools.resume import exists, write_or_compare
from jaxrep.data.transforms import entry_matcher
from jaxrep.data.transforms.balance import Matches, keep, key_of, probabilities
from jaxrep.data.transforms.entry_matcher import Matcher
from jaxrep.errors import BadSample, UsageError
from jaxrep.npy import read_npy, read_npz
from jaxrep.spec_json import redacted, to_json
from jaxrep.storage import FileVersion, file_version, read_bytes, utf8, write_file

THREADS = 8
"""Texts of a chunk that are read at the same time."""
REPORTED = 20
"""Number of entries in the report, with the most texts and with the fewest."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Describe a curation."""

    source: Source
    metadata: tuple[str, ...]
    """Files of entries."""
    folder: str
    """A path or URL that all machines can read and write."""
    t: int
    seed: int
    per_chunk: int
    length: int
    """Examples of the source."""
    entries: int
    digest: str
    """Digest of the entries."""

    @classmethod
    def of(cls, source: Source, metadata: tuple[str, ...], folder: str, t: int, seed: int, per_chunk: int) -> "Plan":
        """Open the source, read the entries, and return the plan."""
        entries = entry_matcher.read_entries(metadata)
        length = len(source.open())
        return cls(source, metadata, folder, t, seed, per_chunk, length, len(entries), entry_matcher.digest(entries))

    @property
    def chunks(self) -> range:
        """Numbers of the chunks."""
        return range(-(-self.length // self.per_chunk))

    @property
    def result(self) -> str:
        """Folder of the second pass."""
        return f"{self.folder}/t{self.t}-seed{self.seed}"

    @property
    def counts(self) -> str:
        """File of the counts."""
        return f"{self.folder}/counts.npy"

    def to_json(self) -> dict[str, Any]:
        """Return what a continued curation has to share, for any t and seed."""
        plan = {"examples": self.length, "per_chunk": self.per_chunk, "metadata": self.digest}
        return {"source": redacted(to_json(self.source)), **plan}


class ChunkResult(NamedTuple):
    """Hold the result of a pass on a chunk, or on several."""

    pairs: int
    entries: np.ndarray  # numbers of the entries of the pairs, ascending
    counts: np.ndarray  # number of pairs with each of these entries
    bad: Mapping[str, int]  # pairs that cannot be read, by reason


def add_up(entries: int, results: Iterable[ChunkResult]) -> ChunkResult:
    """Add up results, in any order, as one with all ``entries``."""
    pairs, counts, bad = 0, np.zeros(entries, np.int64), Counter()
    for result in results:
        pairs += result.pairs
        counts[result.entries] += result.counts
        bad.update(result.bad)
    return ChunkResult(pairs, np.arange(entries), counts, bad)


def curate(plan: Plan, workers: int = 0) -> dict[str, Any]:
    """Run what is missing of both passes and return the report; ``workers``: processes, 0: this process.

    Raises UsageError: the folder has another curation, or cannot be written; BadShard: a shard of the source cannot be
    read.
    """
    write_or_compare(f"{plan.folder}/plan.json", plan.to_json(), plan.folder, "curation")
    matched = add_up(plan.entries, parallel_map(match_chunk, plan, plan.chunks, workers, "matching"))
    save_counts(plan, matched)
    with ThreadPoolExecutor(THREADS) as pool:  # little work, most of it outside Python
        kept = add_up(plan.entries, pool.map(functools.partial(sample_chunk, plan), plan.chunks))
    return save_report(plan, matched, kept)


# Passes --------------------------------------------------------------------------------------------------------------


def match_chunk(plan: Plan, chunk: int) -> ChunkResult:
    """Run the first pass on a chunk. Raises BadShard."""
    path = f"{plan.folder}/matches/{chunk:05}.npz"
    if not exists(path):
        matches, bad = _match(plan, chunk)
        file = io.BytesIO()
        np.savez_compressed(file, bad=np.array(json.dumps(bad)), **matches._asdict())
        write_file(path, file.getvalue())
    matches, bad = _matches(plan, chunk)
    return _result(matches, np.ones(len(matches.rows), bool), bad)


def _match(plan: Plan, chunk: int) -> tuple[Matches, Counter[str]]:
    examples, matcher, failures = opened(plan.source), _matcher(plan.metadata, plan.digest), Failures()
    rows = range(chunk * plan.per_chunk, min((chunk + 1) * plan.per_chunk, plan.length))
    texts = read_all(lambda index: read_texts(examples, index), rows, "", failures, (BadSample,), THREADS)
    return Matches.of((i - rows[0], key_of(examples, i), matcher(text)) for i, text in texts), failures.counts


def sample_chunk(plan: Plan, chunk: int) -> ChunkResult:
    """Run the second pass on a chunk; the counts have been saved."""
    matches, _ = _matches(plan, chunk)
    kept = keep(matches, _probabilities(plan.counts, file_version(plan.counts), plan.t), plan.seed)
    write_file(f"{plan.result}/{chunk:05}.npy", _npy(matches.rows[kept]))
    return _result(matches, kept, Counter())


def _result(matches: Matches, kept: np.ndarray, bad: Counter[str]) -> ChunkResult:
    counts = matches.counts(kept)
    entries = np.flatnonzero(counts)
    return ChunkResult(int(kept.sum()), entries, counts[entries], bad)


def _matches(plan: Plan, chunk: int) -> tuple[Matches, Counter[str]]:
    path = f"{plan.folder}/matches/{chunk:05}.npz"
    try:
        *matches, bad = read_npz(io.BytesIO(read_bytes(path)), (*Matches._fields, "bad")).values()
        return Matches(*matches), Counter(json.loads(str(bad)))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}): remove it and run the same command again") from error


@functools.lru_cache(1)
def _matcher(metadata: tuple[str, ...], digest: str) -> Matcher:
    entries = entry_matcher.read_entries(metadata)
    if entry_matcher.digest(entries) != digest:
        raise UsageError(f"{', '.join(metadata)} has changed since this curation began")
    return Matcher(entries)


@functools.lru_cache(1)
def _probabilities(path: str, version: FileVersion, t: int) -> np.ndarray:
    return probabilities(read_npy(io.BytesIO(read_bytes(path))), t)


def save_counts(plan: Plan, matched: ChunkResult) -> None:
    """Write the number of texts of each entry, for the second pass."""
    write_file(plan.counts, _npy(matched.counts))


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def save_report(plan: Plan, matched: ChunkResult, kept: ChunkResult) -> dict[str, Any]:
    """Write and return curation.json: the kept share, and the entries with the most texts and the fewest."""
    entries, counts = entry_matcher.read_entries(plan.metadata), matched.counts
    order = np.argsort(-counts, kind="stable")
    present = order[: np.count_nonzero(counts)]

    def describe(numbers: np.ndarray) -> list[dict[str, Any]]:
        return [{"entry": entries[n], "texts": int(counts[n]), "kept": int(kept.counts[n])} for n in numbers]

    report = {
        **plan.to_json(),
        "t": plan.t,
        "seed": plan.seed,
        "unreadable": matched.bad,
        "matched": matched.pairs,
        "kept": kept.pairs,
        "share_kept": kept.pairs / max(plan.length, 1),
        "matches": int(counts.sum()),
        "share_of_matches_up_to_t": float(counts[counts <= plan.t].sum() / max(counts.sum(), 1)),
        "entries": len(entries),
        "entries_without_text": len(entries) - len(present),
        "entries_above_t": int((counts > plan.t).sum()),
        "most": describe(present[:REPORTED]),
        "fewest": describe(present[::-1][:REPORTED]),
    }
    write_file(f"{plan.result}/curation.json", utf8(json.dumps(report, indent=1, ensure_ascii=False)))
    return report
