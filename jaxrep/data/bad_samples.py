"""What could not be read: counted by shard and reason, so that nothing is lost without a word.

A ledger is a value, as the loader's position is: the one that belongs to a batch goes into its checkpoint, and a run
that goes on counts on from there. Every place in the order is counted once, as seen or as bad: seen + bad = all.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrep.errors import JaxrepError

KINDS = 1_000
"""Pairs of shard and reason that are told apart; what comes later is counted together."""
EXAMPLES = 100
"""Bad examples that are kept word for word, the first ones."""
LEAST = 1_000
"""Examples before which a share of bad ones says little: so many are taken for read."""
OTHER = "(others)"


@dataclasses.dataclass(frozen=True)
class BadSampleReport:
    """What one host has read so far."""

    rows: int = 0
    """Places in the order that were filled: all."""
    bad: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    """(shard, reason) -> places whose example could not be read; each was filled by a repeat of another example."""
    examples: tuple[str, ...] = ()
    """The first bad examples: where each lies, and what is wrong with it."""
    skipped_shards: tuple[str, ...] = ()
    """Shards that are not read any more."""
    failed_shards: tuple[str, ...] = ()
    """Why the run has to stop, a sentence each: shards that cannot be read and are not to be left out."""

    @property
    def bad_rows(self) -> int:
        """Places whose example could not be read."""
        return sum(self.bad.values())

    def __add__(self, other: "BadSampleReport") -> "BadSampleReport":
        counts = dict(self.bad)
        for kind, count in other.bad.items():
            kind = kind if kind in counts or len(counts) < KINDS else (OTHER, OTHER)
            counts[kind] = counts.get(kind, 0) + count
        examples = (*self.examples, *other.examples)[:EXAMPLES]
        skipped_shards = tuple(dict.fromkeys((*self.skipped_shards, *other.skipped_shards)))
        failed_shards = tuple(dict.fromkeys((*self.failed_shards, *other.failed_shards)))
        return BadSampleReport(self.rows + other.rows, counts, examples, skipped_shards, failed_shards)

    def check(self, max_bad_fraction: float) -> None:
        """Raises JaxrepError where a shard is lost, or more than this share is bad: it names the worst shards."""
        if self.failed_shards:
            raise JaxrepError(self.failed_shards[0])
        if self.bad_rows <= max_bad_fraction * max(self.rows, LEAST):
            return
        worst = sorted(self.bad.items(), key=lambda kind: -kind[1])[:5]
        told = "; ".join(f"{shard}: {count} times {reason}" for (shard, reason), count in worst)
        raise JaxrepError(
            f"{self.bad_rows} of {self.rows} examples could not be read, which is more than the share of "
            f"{max_bad_fraction:g} that data.max_bad_fraction allows. The worst: {told}. First: {self.examples[0]}. "
            "Repair the data, or allow more and run the same command to go on"
        )

    def metrics(self) -> dict[str, float]:
        """What is reported of it beside a step's metrics."""
        return {"data/bad": float(self.bad_rows)} if self.bad else {}

    def to_json(self) -> dict[str, Any]:
        """As ``data_ledger.json`` and a checkpoint hold it."""
        shards: dict[str, dict[str, int]] = {}
        for (shard, reason), count in self.bad.items():
            shards.setdefault(shard, {})[reason] = count
        return {
            "all": self.rows,
            "seen": self.rows - self.bad_rows,
            "bad": self.bad_rows,
            "repeats": self.bad_rows,
            "shards": shards,
            "examples": list(self.examples),
            "skipped_shards": list(self.skipped_shards),
        } | ({"failed_shards": list(self.failed_shards)} if self.failed_shards else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "BadSampleReport":
        """The inverse of ``to_json``."""
        bad = {(shard, reason): count for shard, kinds in data["shards"].items() for reason, count in kinds.items()}
        return cls(
            data["all"], bad, *(tuple(data.get(name, ())) for name in ("examples", "skipped_shards", "failed_shards"))
        )

    def packed(self) -> np.ndarray:
        """Bytes, uint8: as it comes from a worker process beside a batch's arrays."""
        return np.frombuffer(json.dumps(self.to_json()).encode(), np.uint8)

    @classmethod
    def unpacked(cls, content: np.ndarray) -> "BadSampleReport":
        """The inverse of ``packed``."""
        return cls.from_json(json.loads(content.tobytes()))


EMPTY = BadSampleReport()
"""Of nothing read yet."""


def kind(reason: str) -> str:
    """A reason without what is the example's own: what stands in brackets, and numbers."""
    return re.sub(r"(?<!UTF-)\d[\d,.]*", "N", reason.partition(" (")[0])
