"""Read the examples at some places of the order. Unreadable examples are replaced and reported.

The substitute depends on the place alone (``Indices.substitute``), so that a resumed run makes the same choice, also on
other hosts and with other workers.
"""

import dataclasses
import time
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import UInt64

from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.bad_samples import BadSampleReport, reason_kind
from jaxrep.data.orders.base import Indices
from jaxrep.data.source import Examples
from jaxrep.errors import BadSample, BadShard, JaxrepError

RETRY_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt at a shard that cannot be read, after the attempts of ``jaxrep.storage``."""
MAX_ATTEMPTS = 100
"""Substitutes that are tried for one place of the order."""
SKIPPED = "the shard is skipped"
FAILED = "the shard cannot be read"


@dataclasses.dataclass(frozen=True)
class Reader:
    """Give random access to the places of an order. Threads may read at the same time; it pickles."""

    examples: Examples
    order: Indices
    seed: int = 0
    """Seed of the randomness in reading: crops, captions."""
    skip_failed_shards: bool = False
    """Whether a shard that cannot be read is skipped; otherwise it is an error."""
    single_host: bool = True
    """Whether that error is raised; otherwise the report carries it to all hosts, and substitutes are read until the
    hosts stop."""
    skipped_shards: set[str] = dataclasses.field(default_factory=set)
    """Shards that are skipped; the reader adds unreadable ones."""
    failed_shards: dict[str, str] = dataclasses.field(default_factory=dict)
    """Shards that cannot be read and must not be skipped -> the reason."""

    def read(self, positions: UInt64[np.ndarray, "B"]) -> tuple[dict[str, Any], BadSampleReport]:
        """Return the columns of the examples at ``positions``, and their report.

        Raises BadShard: a shard stays unreadable and must not be skipped, on a single host.
        """
        indices = self.order(positions)
        keys = splitmix64(splitmix64(np.full_like(positions, self.seed)) + positions)
        rows = _Rows(self, positions, indices)
        if self.skipped_shards or self.failed_shards:
            indices = rows.replace_unreadable()
        columns = self.examples.gather(indices, keys, rows.substitute)
        return columns, rows.report()

    def unreadable(self, shard: str) -> str:
        """Return why the examples of a shard are known to be bad; empty: they are not."""
        return FAILED if shard in self.failed_shards else SKIPPED if shard in self.skipped_shards else ""


class _Rows:
    """Track the rows of one read: the example that was tried in each row, and the rows that could not be read."""

    def __init__(self, reader: Reader, positions: np.ndarray, indices: np.ndarray):
        self._reader, self._positions, self._indices = reader, positions, indices.copy()
        self._waits: Counter[int] = Counter()
        self._attempts: Counter[int] = Counter()
        self._bad: dict[int, tuple[str, str, str]] = {}  # of the first example of a row: shard, reason, sentence

    def replace_unreadable(self) -> np.ndarray:
        """Return the indices, with substitutes for those in shards that are known to be unreadable."""
        for row, index in enumerate(self._indices):
            shard = self._reader.examples.shard(int(index))
            if reason := self._reader.unreadable(shard):
                self._replace(row, shard, reason, f"{shard}: {reason}")
        return self._indices

    def substitute(self, row: int, error: BadSample | BadShard) -> int:
        """Return the index to try next in a row; for a failing shard, the same index after a wait."""
        index = int(self._indices[row])
        shard = self._reader.examples.shard(index)
        if isinstance(error, BadSample):
            return self._replace(row, shard, reason_kind(error.reason), str(error))
        if not self._reader.unreadable(shard):
            # A run that stops does not wait for further shards.
            if (waited := self._waits[row]) < len(RETRY_WAITS) and not self._reader.failed_shards:
                time.sleep(RETRY_WAITS[waited])
                self._waits[row] += 1
                return index
            self._give_up(shard, error)
        return self._replace(row, shard, self._reader.unreadable(shard), str(error))

    def _give_up(self, shard: str, error: BadShard) -> None:
        if self._reader.skip_failed_shards:
            self._reader.skipped_shards.add(shard)
            return
        sentence = (
            f"{error}; it was tried {len(RETRY_WAITS) + 1} times. Bring the shard back and run the same command to go "
            "on, or skip it by --data.skip-failed-shards True"
        )
        if self._reader.single_host:
            raise BadShard(sentence) from error
        self._reader.failed_shards[shard] = sentence

    def _replace(self, row: int, shard: str, reason: str, sentence: str) -> int:
        self._bad.setdefault(row, (shard, reason, sentence))
        while self._attempts[row] < MAX_ATTEMPTS:
            self._attempts[row] += 1
            index = self._reader.order.substitute(int(self._positions[row]), self._attempts[row])
            if not self._reader.unreadable(self._reader.examples.shard(index)):
                self._indices[row] = index
                del self._waits[row]
                return index
        raise JaxrepError(f"{sentence}; and {MAX_ATTEMPTS} other examples, tried in its place, cannot be read either")

    def report(self) -> BadSampleReport:
        """Return the report of the rows."""
        return BadSampleReport(
            rows=len(self._positions),
            bad=dict(Counter((shard, reason) for shard, reason, _ in self._bad.values())),
            examples=tuple(sentence for _, _, sentence in self._bad.values()),
            skipped_shards=tuple(sorted(self._reader.skipped_shards)),
            failed_shards=tuple(self._reader.failed_shards.values()),
        )
