"""Reads the examples at some places of the order. What cannot be read is replaced, and written into a ledger.

What stands in is a function of the place alone (``Indices.instead``), so that a run that goes on, on other hosts and
with other workers, repeats the choice.
"""

import dataclasses
import time
from typing import Any

import numpy as np
from jaxtyping import UInt64

from jaxrep.data.bad_samples import BadSampleReport, kind
from jaxrep.data.orders.base import Indices, mix
from jaxrep.data.source import Examples
from jaxrep.errors import BadSample, BadShard, JaxrepError

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each further attempt at a shard that cannot be read, where ``storage.WAITS`` did not help."""
ATTEMPTS = 100
"""Examples that are tried in one place of the order."""
LEFT_OUT = "the shard is left out"
LOST = "the shard cannot be read"


@dataclasses.dataclass(frozen=True)
class Reader:
    """Random access to the places of an order. Threads may read at the same time; it pickles."""

    examples: Examples
    order: Indices
    seed: int = 0
    """Seed of what is drawn in reading: crops, captions."""
    leave_out: bool = False
    """Whether a shard that cannot be read is left out; else it is an error."""
    alone: bool = True
    """Whether that error is raised; else the ledger tells it to all hosts, and others stand in until they stop."""
    skipped_shards: set[str] = dataclasses.field(default_factory=set)
    """The shards that are left out; those that are found to be unreadable are added."""
    failed_shards: dict[str, str] = dataclasses.field(default_factory=dict)
    """The shards that cannot be read and are not to be left out -> why."""

    def read(self, positions: UInt64[np.ndarray, "B"]) -> tuple[dict[str, Any], BadSampleReport]:
        """Columns of the examples at ``positions``, and what there is to tell of them.

        Raises BadShard: a shard cannot be read, also after some time, and is not to be left out, and it reads alone.
        """
        indices = self.order(positions)
        keys = mix(mix(np.full_like(positions, self.seed)) + positions)
        rows = _Rows(self, positions, indices)
        if self.skipped_shards or self.failed_shards:
            indices = rows.without_unreadable()
        columns = self.examples.gather(indices, keys, rows.instead)
        return columns, rows.ledger()


class _Rows:
    """The rows of one read: which example was tried in each, and which could not be read."""

    def __init__(self, reader: Reader, positions: np.ndarray, indices: np.ndarray):
        self._reader, self._positions, self._indices = reader, positions, indices.copy()
        self._waits: dict[int, int] = {}
        self._attempts: dict[int, int] = {}
        self._bad: dict[int, tuple[str, str, str]] = {}  # of a row's own example: shard, reason, the whole sentence

    def without_unreadable(self) -> np.ndarray:
        """The indices, with others in place of those whose shards are known to be unreadable."""
        for row, index in enumerate(self._indices):
            if self._unreadable(shard := self._reader.examples.shard(int(index))):
                self._replace(row, shard, self._reason(shard), f"{shard}: {self._reason(shard)}")
        return self._indices

    def _unreadable(self, shard: str) -> bool:
        return shard in self._reader.skipped_shards or shard in self._reader.failed_shards

    def _reason(self, shard: str) -> str:
        return LOST if shard in self._reader.failed_shards else LEFT_OUT

    def instead(self, row: int, error: BadSample | BadShard) -> int:
        """The index to try next in a row whose example cannot be read; of a shard's, the same one after a while."""
        index = int(self._indices[row])
        shard = self._reader.examples.shard(index)
        if isinstance(error, BadSample):
            return self._replace(row, shard, kind(error.reason), str(error))
        if not self._unreadable(shard):
            waited = self._waits.get(row, 0)
            if waited < len(WAITS) and not self._reader.failed_shards:  # a run that stops waits for no further shard
                time.sleep(WAITS[waited])
                self._waits[row] = waited + 1
                return index
            self._give_up(shard, error)
        return self._replace(row, shard, self._reason(shard), str(error))

    def _give_up(self, shard: str, error: BadShard) -> None:
        if self._reader.leave_out:
            self._reader.skipped_shards.add(shard)
            return
        told = (
            f"{error}; it was tried {len(WAITS) + 1} times. Bring the shard back and run the same command to go on, or "
            "leave it out by --data.skip-failed-shards True"
        )
        if self._reader.alone:
            raise BadShard(told) from error
        self._reader.failed_shards[shard] = told

    def _replace(self, row: int, shard: str, reason: str, told: str) -> int:
        self._bad.setdefault(row, (shard, reason, told))
        while (attempt := self._attempts.get(row, 0)) < ATTEMPTS:
            self._attempts[row] = attempt + 1
            index = self._reader.order.instead(int(self._positions[row]), attempt + 1)
            if not self._unreadable(self._reader.examples.shard(index)):
                self._indices[row] = index
                self._waits.pop(row, None)
                return index
        raise JaxrepError(f"{told}; and {ATTEMPTS} other examples, tried in its place, cannot be read either")

    def ledger(self) -> BadSampleReport:
        """What was read."""
        kinds: dict[tuple[str, str], int] = {}
        for shard, reason, _ in self._bad.values():
            kinds[shard, reason] = kinds.get((shard, reason), 0) + 1
        told = tuple(told for _, _, told in self._bad.values())
        skipped_shards, failed_shards = (
            tuple(sorted(self._reader.skipped_shards)),
            tuple(self._reader.failed_shards.values()),
        )
        return BadSampleReport(len(self._positions), kinds, told, skipped_shards, failed_shards)
