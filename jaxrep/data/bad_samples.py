"""Count unreadable examples by shard and reason.

A report is a value, as the position of the loader is. A checkpoint holds the report of its batch, and a resumed run
continues its counts. Every place in the order counts once, as seen or as bad: seen + bad = all.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrep.errors import JaxrepError

MAX_KINDS = 1_000
"""Pairs of shard and reason that are counted one by one; further pairs are counted as ``OTHER``."""
MAX_EXAMPLES = 100
"""Bad examples that the report quotes, the first ones."""
MIN_ROWS = 1_000
"""A share is of at least this many rows: the share of bad examples among few rows says little."""
OTHER = "(others)"


@dataclasses.dataclass(frozen=True)
class BadSampleReport:
    """Report the bad samples among the examples that one host has read so far."""

    rows: int = 0
    """Places in the order that were filled, including those of bad examples."""
    bad: Mapping[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    """(shard, reason) -> places whose example could not be read; another example filled each of them."""
    examples: tuple[str, ...] = ()
    """The first bad examples: the place of each, and the reason."""
    skipped_shards: tuple[str, ...] = ()
    """Shards that are no longer read."""
    failed_shards: tuple[str, ...] = ()
    """Reasons why the run must stop, one sentence per shard that cannot be read and must not be skipped."""

    @property
    def bad_rows(self) -> int:
        """Return the number of places whose example could not be read."""
        return sum(self.bad.values())

    def __add__(self, other: "BadSampleReport") -> "BadSampleReport":
        counts = dict(self.bad)
        for kind, count in other.bad.items():
            kind = kind if kind in counts or len(counts) < MAX_KINDS else (OTHER, OTHER)
            counts[kind] = counts.get(kind, 0) + count
        examples = (*self.examples, *other.examples)[:MAX_EXAMPLES]
        skipped = dict.fromkeys((*self.skipped_shards, *other.skipped_shards))
        failed = dict.fromkeys((*self.failed_shards, *other.failed_shards))
        return BadSampleReport(self.rows + other.rows, counts, examples, tuple(skipped), tuple(failed))

    def check(self, max_bad_fraction: float) -> None:
        """Raise JaxrepError if a shard failed, or if more than this share is bad. The error names the worst shards."""
        if self.failed_shards:
            raise JaxrepError(self.failed_shards[0])
        if self.bad_rows <= max_bad_fraction * max(self.rows, MIN_ROWS):
            return
        counts = sorted(self.bad.items(), key=lambda kind: -kind[1])[:5]
        worst = "; ".join(f"{shard}: {count} times {reason}" for (shard, reason), count in counts)
        raise JaxrepError(
            f"{self.bad_rows} of {self.rows} examples could not be read, which is more than the share of "
            f"{max_bad_fraction:g} that data.max_bad_fraction allows. The worst: {worst}. First: {self.examples[0]}. "
            "Repair the data, or allow more and run the same command to go on"
        )

    def metrics(self) -> dict[str, float]:
        """Return the metrics to log with those of a step."""
        return {"data/bad": float(self.bad_rows)} if self.bad else {}

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``bad_samples.json``, as a checkpoint holds it too."""
        shards: dict[str, dict[str, int]] = {}
        for (shard, reason), count in self.bad.items():
            shards.setdefault(shard, {})[reason] = count
        counts = {"all": self.rows, "seen": self.rows - self.bad_rows, "bad": self.bad_rows, "repeats": self.bad_rows}
        lists = {"examples": list(self.examples), "skipped_shards": list(self.skipped_shards)}
        failed = {"failed_shards": list(self.failed_shards)} if self.failed_shards else {}
        return {**counts, "shards": shards, **lists, **failed}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "BadSampleReport":
        """Return the report that ``to_json`` wrote."""
        bad = {(shard, reason): count for shard, kinds in data["shards"].items() for reason, count in kinds.items()}
        lists = (tuple(data.get(name, ())) for name in ("examples", "skipped_shards", "failed_shards"))
        return cls(data["all"], bad, *lists)

    def to_array(self) -> np.ndarray:
        """Return the report as bytes, uint8: a worker process sends it with the arrays of a batch."""
        return np.frombuffer(json.dumps(self.to_json()).encode(), np.uint8)

    @classmethod
    def from_array(cls, content: np.ndarray) -> "BadSampleReport":
        """Return the report that ``to_array`` wrote."""
        return cls.from_json(json.loads(content.tobytes()))


EMPTY_REPORT = BadSampleReport()


def reason_kind(reason: str) -> str:
    """Return a reason without what differs between examples: text in brackets, and numbers."""
    return re.sub(r"(?<!UTF-)\d[\d,.]*", "N", reason.partition(" (")[0])
