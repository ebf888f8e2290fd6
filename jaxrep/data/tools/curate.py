"""A pool of any size balanced over metadata in two passes (Xu et al. 2024, arXiv:2309.16671, algorithm 1).

The pool is cut into chunks of consecutive examples. The first pass finds the entries that each text holds and counts
the texts of each entry; the second draws which pairs stay. What each pass finds of a chunk is a file, there whole or
not at all, so that chunks are worked on in any order, by any process of any machine, and what was interrupted goes on:

    FOLDER/plan.json                       of which pool and metadata this is
    FOLDER/matches/00000.npz …             first pass: ``Matches`` of a chunk, of any t and seed
    FOLDER/counts.npy                      texts of each entry, int64 [K]
    FOLDER/t20000-seed0/00000.npy …        second pass: places in the chunk of the pairs that stay, uint32
    FOLDER/t20000-seed0/curation.json      what came of it
"""

import dataclasses
import functools
import io
import json
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxrep.data._util.parallel import parallel_map
from jaxrep.data.source import Examples, Source
from jaxrep.data.tools.try_each import read_text, reason
from jaxrep.data.transforms import entry_matcher
from jaxrep.data.transforms.balance import Matches, keep, key_of, matches, probabilities
from jaxrep.data.transforms.entry_matcher import Matcher
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec_json import to_json
from jaxrep.storage import Facts, facts, read, remote, store, write_file

THREADS = 8
"""Texts of a chunk that are read at the same time."""
NAMED = 20
"""Entries that the report names, with the most texts and with the fewest."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is curated, by what, and where."""

    source: Source
    metadata: tuple[str, ...]
    """Files of entries."""
    folder: str
    """A path or URL; where several machines work, one that all of them see."""
    t: int
    seed: int
    per_chunk: int
    length: int
    """Examples of the source."""
    entries: int
    digest: str
    """Of the entries."""

    @classmethod
    def of(cls, source: Source, metadata: tuple[str, ...], folder: str, t: int, seed: int, per_chunk: int) -> "Plan":
        """Opens the source and reads the entries."""
        entries = entry_matcher.read_entries(metadata)
        length = len(source.open())
        return cls(source, metadata, folder, t, seed, per_chunk, length, len(entries), entry_matcher.digest(entries))

    @property
    def chunks(self) -> range:
        """Numbers of the chunks."""
        return range(-(-self.length // self.per_chunk))

    @property
    def result(self) -> str:
        """The folder of the second pass."""
        return f"{self.folder}/t{self.t}-seed{self.seed}"

    @property
    def counts(self) -> str:
        """The file of the counts."""
        return f"{self.folder}/counts.npy"

    def facts(self) -> dict[str, Any]:
        """What must be the same where a curation goes on, with the same t or another."""
        source = json.loads(json.dumps(to_json(self.source)))
        return {"source": source, "examples": self.length, "per_chunk": self.per_chunk, "metadata": self.digest}


class Part(NamedTuple):
    """What a pass finds of a chunk."""

    pairs: int
    entries: np.ndarray  # numbers of the entries that the pairs hold, ascending
    counts: np.ndarray  # how many hold each of these
    bad: Mapping[str, int]  # pairs that could not be read, by reason


class Totals:
    """The parts of any chunks added up, in any order; of so many ``entries``."""

    def __init__(self, entries: int):
        self.pairs, self.counts, self.bad = 0, np.zeros(entries, np.int64), Counter()

    def add(self, part: Part) -> "Totals":
        """With another part."""
        self.pairs += part.pairs
        self.counts[part.entries] += part.counts
        self.bad.update(part.bad)
        return self

    def part(self) -> Part:
        """As a part of other totals."""
        return Part(self.pairs, *_some(self.counts), self.bad)


def curate(plan: Plan, workers: int = 0) -> dict[str, Any]:
    """Both passes over what is not there yet; ``workers``: processes, 0: this one. Gives the report.

    Raises UsageError: the folder holds the curation of something else, or cannot be written; BadShard: a shard of the
    source cannot be read.
    """
    prepare(plan)
    found, kept = Totals(plan.entries), Totals(plan.entries)
    for part in parallel_map(match_chunk, plan, plan.chunks, workers, "matching"):
        found.add(part)
    save_counts(plan, found)
    with ThreadPoolExecutor(THREADS) as pool:  # little work, and none of it Python's
        for part in pool.map(functools.partial(sample_chunk, plan), plan.chunks):
            kept.add(part)
    return save_report(plan, found, kept)


def prepare(plan: Plan) -> None:
    """Notes the plan, or compares with what is noted. Raises UsageError."""
    path = f"{plan.folder}/plan.json"
    if not exists(path):
        write_file(path, json.dumps(plan.facts(), indent=1).encode())
    elif json.loads(read(path)) != plan.facts():
        raise UsageError(f"{plan.folder} holds another curation, of which {path} tells: name another folder")


# Passes --------------------------------------------------------------------------------------------------------------


def match_chunk(plan: Plan, chunk: int) -> Part:
    """First pass over a chunk. Raises BadShard."""
    path = f"{plan.folder}/matches/{chunk:05}.npz"
    if not exists(path):
        found, bad = _match(plan, chunk)
        file = io.BytesIO()
        np.savez_compressed(file, bad=np.array(json.dumps(bad)), **found._asdict())
        write_file(path, file.getvalue())
    found, bad = _matches(plan, chunk)
    return _part(found, np.ones(len(found.rows), bool), bad)


def _match(plan: Plan, chunk: int) -> tuple[Matches, Counter[str]]:
    examples, matcher = _opened(plan.source), _matcher(plan.metadata, plan.digest)
    rows = range(chunk * plan.per_chunk, min((chunk + 1) * plan.per_chunk, plan.length))

    def text(index: int) -> tuple[str, ...] | BadSample:
        try:
            return read_text(examples, index)
        except BadSample as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        texts = list(pool.map(text, rows))
    bad = Counter(reason(found) for found in texts if isinstance(found, BadSample))
    good = ((row, found) for row, found in enumerate(texts) if not isinstance(found, BadSample))
    return matches((row, key_of(examples, rows[row]), matcher(found)) for row, found in good), bad


def sample_chunk(plan: Plan, chunk: int) -> Part:
    """Second pass over a chunk; the counts of all are there."""
    found, _ = _matches(plan, chunk)
    kept = keep(found, _probabilities(plan.counts, facts(plan.counts), plan.t), plan.seed)
    write_file(f"{plan.result}/{chunk:05}.npy", _bytes(found.rows[kept]))
    return _part(found, kept, Counter())


def _part(found: Matches, kept: np.ndarray, bad: Counter[str]) -> Part:
    return Part(int(kept.sum()), *_some(found.counts(kept)), bad)


def _some(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and counts of the entries that are counted at all."""
    entries = np.flatnonzero(counts)
    return entries, counts[entries]


def _matches(plan: Plan, chunk: int) -> tuple[Matches, Counter[str]]:
    with np.load(io.BytesIO(read(f"{plan.folder}/matches/{chunk:05}.npz"))) as held:
        return Matches(*(held[name] for name in Matches._fields)), Counter(json.loads(str(held["bad"])))


@functools.lru_cache(1)
def _opened(source: Source) -> Examples:
    return source.open()


@functools.lru_cache(1)
def _matcher(metadata: tuple[str, ...], digest: str) -> Matcher:
    entries = entry_matcher.read_entries(metadata)
    if entry_matcher.digest(entries) != digest:
        raise UsageError(f"{', '.join(metadata)} holds other entries than when this curation began")
    return Matcher(entries)


@functools.lru_cache(1)
def _probabilities(path: str, version: Facts, t: int) -> np.ndarray:
    return probabilities(np.load(io.BytesIO(read(path))), t)


def save_counts(plan: Plan, found: Totals) -> None:
    """Writes how many texts hold each entry, for the second pass."""
    write_file(plan.counts, _bytes(found.counts))


def _bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def exists(path: str) -> bool:
    """Whether there is a file."""
    if not remote(path):
        return os.path.exists(path)
    files, name = store(path)
    files.invalidate_cache(name)
    return files.exists(name)


# What came of it -----------------------------------------------------------------------------------------------------


def save_report(plan: Plan, found: Totals, kept: Totals) -> dict[str, Any]:
    """Writes and gives curation.json: what was kept, and the entries with the most texts and the fewest."""
    entries, counts = entry_matcher.read_entries(plan.metadata), found.counts
    order = np.argsort(-counts, kind="stable")
    held = order[: np.count_nonzero(counts)]

    def named(numbers: np.ndarray) -> list[dict[str, Any]]:
        return [{"entry": entries[n], "texts": int(counts[n]), "kept": int(kept.counts[n])} for n in numbers]

    report = {
        **plan.facts(),
        "t": plan.t,
        "seed": plan.seed,
        "unreadable": found.bad,
        "matched": found.pairs,
        "kept": kept.pairs,
        "share_kept": kept.pairs / max(plan.length, 1),
        "matches": int(counts.sum()),
        "share_of_matches_up_to_t": float(counts[counts <= plan.t].sum() / max(counts.sum(), 1)),
        "entries": len(entries),
        "entries_without_text": len(entries) - len(held),
        "entries_above_t": int((counts > plan.t).sum()),
        "most": named(held[:NAMED]),
        "fewest": named(held[::-1][:NAMED]),
    }
    write_file(f"{plan.result}/curation.json", json.dumps(report, indent=1, ensure_ascii=False).encode())
    return report
