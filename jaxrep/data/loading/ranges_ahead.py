"""Read the ranges of single examples to memory before a loader needs them, several at the same time."""

import bisect
import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future

import numpy as np

from jaxrep.data._util.fetchers import Planner
from jaxrep.data._util.ranges import Range, join_ranges
from jaxrep.data.sources.encoded import ShardedExamples
from jaxrep.errors import JaxrepError
from jaxrep.storage import is_remote, read_bytes

REQUESTS = 64
"""Requests at the same time, over all worker processes."""
MAX_BYTES = 256 * 2**20
"""Bytes of ranges in memory, over all worker processes; a chunk that is read has at least a quarter of it."""
MAX_CHUNKS = 8
"""Most chunks ahead of the one that is read: enough for all requests, and no ranges of files that are copied soon."""

FORGIVEN = 256
"""Chunks for which the ranges of a file are not asked for again, after an index that could not be read."""

Wanted = Callable[[int], Iterable[tuple[ShardedExamples, np.ndarray]]]
"""Chunk -> the files of its examples, and their indices there."""


class Pieces:
    """Hold the ranges of a chunk that are being read, up to ``capacity`` bytes."""

    def __init__(self, capacity: int):
        self.size, self._capacity = 0, capacity
        self._files: dict[str, tuple[list[int], list[tuple[int, Future[bytes]]]]] = {}

    def add(self, path: str, ranges: Iterable[Range], submit: Callable[[Callable[[], bytes]], Future[bytes]]) -> None:
        """Start to read ascending ranges of a file; those beyond the capacity are left out."""
        starts, pieces = self._files.setdefault(path, ([], []))
        for start, end in ranges:
            if start < end and self.size + end - start <= self._capacity:
                starts.append(start)
                pieces.append((end, submit(functools.partial(read_bytes, path, start, end - start))))
                self.size += end - start

    def read(self, path: str, offset: int, size: int) -> bytes | None:
        """Return bytes of a file once they are read; None: they are not among the ranges, or could not be read."""
        starts, pieces = self._files.get(path, ([], []))
        number = bisect.bisect_right(starts, offset) - 1
        if number < 0 or size < 0 or offset + size > pieces[number][0]:
            return None
        with contextlib.suppress(Exception):  # the reader reads again, and explains the error if there is one still
            return pieces[number][1].result()[offset - starts[number] : offset - starts[number] + size]
        return None

    def cancel(self) -> None:
        """Cancel what is not yet under way."""
        for _, pieces in self._files.values():
            for _, future in pieces:
                future.cancel()


class RangesAhead(Planner):
    """Read the ranges of the next chunks that this process reads."""

    def __init__(self, wanted: Wanted, covered: Callable[[str], bool], processes: int):
        """Start a thread that plans, and those that read.

        Args:
            wanted: states the examples of a chunk.
            covered: whether a file is read otherwise.
            processes: processes that read; every ``processes``-th chunk is read by this one.
        """
        super().__init__(max(REQUESTS // processes, 1), "ranges-ahead")
        self._wanted, self._covered, self._stride = wanted, covered, processes
        self._capacity, self._next = MAX_BYTES // processes, -1
        self._chunks: dict[int, Pieces] = {}
        self._failed: dict[tuple[int, int], int] = {}  # files whose ranges cannot be found, and when to try again
        self._planning = threading.Lock()
        self.start()

    def take(self, chunk: int) -> Pieces:
        """Return the ranges of a chunk, and start to read them if that has not begun."""
        pieces = self._plan(chunk)
        with self.changed:
            self._next = max(self._next, chunk + self._stride)
            self.changed.notify_all()
        return pieces

    def forget(self) -> None:
        for chunk in [chunk for chunk in self._chunks if chunk < self.passed]:
            self._chunks.pop(chunk).cancel()

    def work(self) -> None:
        with self.changed:
            chunk = self._next
            self._next += self._stride
        if chunk >= self.passed:
            self._plan(chunk)

    def has_work(self) -> bool:
        used = sum(pieces.size for pieces in self._chunks.values())
        near = self._next <= self.passed + MAX_CHUNKS * self._stride
        return self._next >= 0 and near and used < self._capacity * 3 // 4

    def _plan(self, chunk: int) -> Pieces:
        with self._planning:
            if chunk in self._chunks:
                return self._chunks[chunk]
            pieces = Pieces(self._capacity // 4)
            for path, ranges in self._ranges(chunk):
                pieces.add(path, join_ranges(ranges), functools.partial(self.fetchers.submit, chunk))
            with self.changed:
                self._chunks[chunk] = pieces
        return pieces

    def _ranges(self, chunk: int) -> Iterator[tuple[str, list[Range]]]:
        """Yield the ranges of a chunk by file; indices of several files are read at the same time."""
        found: list[tuple[str, tuple[int, int], Future[list[Range]]]] = []
        for leaf, indices in self._wanted(chunk):
            starts, numbers = np.insert(leaf.shard_ends, 0, 0), np.searchsorted(leaf.shard_ends, indices, side="right")
            for number in np.unique(numbers).tolist():
                path, place = leaf.paths[int(number)], (id(leaf), number)
                if is_remote(path) and chunk >= self._failed.get(place, chunk) and not self._covered(path):
                    rows = indices[numbers == number] - starts[number]
                    read = functools.partial(leaf.ranges, number, rows)
                    found.append((path, place, self.fetchers.submit(chunk, read)))
        for path, place, future in found:
            try:
                yield path, future.result()
            except (JaxrepError, CancelledError):  # whoever reads these examples meets the same error
                self._failed[place] = chunk + FORGIVEN
