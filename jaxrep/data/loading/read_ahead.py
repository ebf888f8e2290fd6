"""Read remote files before a loader needs them: its order is a function, so what comes next is known.

Two things are read ahead, each in threads of its own:

- ``CopiesAhead`` copies whole files to the disk: those of which a large part of the examples is read soon.
- ``RangesAhead`` reads the ranges of single examples of the other files to memory, chunk by chunk.

What is read ahead never decides what a loader returns. What is missing, or could not be read, is read when it is
needed, and fails there.
"""

import atexit
import contextlib
import dataclasses
import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from jaxrep.data.loading.copies_ahead import CopiesAhead
from jaxrep.data.loading.ranges_ahead import Pieces, RangesAhead
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import ShardedExamples
from jaxrep.storage import reading_from


@dataclasses.dataclass(frozen=True)
class ChunkRows:
    """State which positions the chunks of a loader have: ``parts`` chunks of ``size`` rows per batch."""

    position: int
    """Position of the first batch."""
    row: int
    """First row of a batch that this host reads."""
    batch_size: int
    size: int
    parts: int = 1

    def start(self, chunk: int) -> tuple[int, int]:
        """Return the position of the batch of a chunk, and the row there at which the chunk starts."""
        step, part = divmod(chunk, self.parts)
        return self.position + step * self.batch_size, self.row + part * self.size

    def positions(self, first: int, count: int = 1) -> np.ndarray:
        """Return the positions uint64 [count * size] of consecutive chunks."""
        starts = np.array([sum(self.start(chunk)) for chunk in range(first, first + count)], np.uint64)
        return (starts[:, None] + np.arange(self.size, dtype=np.uint64)).reshape(-1)


class Closed(BaseException):
    """The loader was closed: no exception that a reader would take for the fault of an example."""


class ReadAhead:
    """Read ahead for the chunks of a loader. It pickles: each process starts its own threads when it first reads."""

    def __init__(
        self, examples: Examples, order: Callable[[np.ndarray], np.ndarray], rows: ChunkRows, workers: int = 0
    ):
        """Take the examples, their order (fewer indices than positions at its end) and the chunks.

        ``workers``: processes among which the chunks are dealt out one by one; 0: this process reads all.
        """
        self._examples, self._order, self._rows, self._workers = examples, order, rows, workers
        self._lock, self._active, self._last, self._closed = threading.Lock(), Counter[int](), 0, False

    def __reduce__(self):
        return type(self), (self._examples, self._order, self._rows, self._workers)

    @functools.cached_property
    def _remote(self) -> bool:
        return any(leaf.is_remote() for leaf, _ in self._files(np.zeros(0, np.int64)))

    def _files(self, indices: np.ndarray) -> Iterator[tuple[ShardedExamples, np.ndarray]]:
        for leaf, rows in self._examples.origins(indices):
            if isinstance(leaf, ShardedExamples):
                yield leaf, rows

    def _wanted(self, first: int, count: int) -> Iterator[tuple[ShardedExamples, np.ndarray]]:
        return self._files(self._order(self._rows.positions(first, count)))

    @functools.cached_property
    def _threads(self) -> tuple[CopiesAhead, RangesAhead]:
        length, processes = len(self._examples), max(self._workers, 1)
        leaves = [leaf for leaf, _ in self._files(np.zeros(0, np.int64))]
        atexit.register(self.close)  # a thread that an interpreter's end stops inside of a library ends it by an abort
        copies = CopiesAhead(leaves, self._wanted, self._rows.size, length, processes)
        return copies, RangesAhead(lambda chunk: self._wanted(chunk, 1), copies.covers, processes)

    @contextlib.contextmanager
    def reading(self, chunk: int) -> Iterator[None]:
        """Let this thread's reads inside the context, those of a chunk or of a part of it, take what was read ahead."""
        if not self._remote:
            yield
            return
        with self._lock:
            if self._closed:
                raise Closed
            copies, ranges = self._threads
            self._active[chunk] += 1
            self._last = max(self._last, chunk)
        self._move()
        try:
            with reading_from(_Found(ranges.take(chunk), copies, lambda: self._closed)):
                yield
        finally:
            with self._lock:
                self._active -= Counter([chunk])
            self._move()

    def _move(self) -> None:
        """Tell the threads which chunks are over: those before all that are read, and before the last one."""
        with self._lock:
            passed = min(self._active, default=self._last)
            if self._closed:
                return
        for ahead in self._threads:
            ahead.move(passed)

    def close(self) -> None:
        """Cancel what is read ahead, and return when no thread of it is left."""
        atexit.unregister(self.close)
        with self._lock:
            self._closed = True
        for ahead in vars(self).get("_threads", ()):
            ahead.close()


def ahead_of(examples: Examples, indices: np.ndarray, block: int) -> ReadAhead:
    """Return what reads ahead of one pass over the examples at ``indices``; chunk n has those from n * block on."""
    return ReadAhead(examples, lambda places: indices[places[places < len(indices)]], ChunkRows(0, 0, block, block))


@dataclasses.dataclass(frozen=True)
class _Found:
    """Hold what was read for one chunk (``jaxrep.storage.ReadBefore``)."""

    pieces: Pieces
    copies: CopiesAhead
    closed: Callable[[], bool]

    def read(self, path: str, offset: int, size: int) -> bytes | None:
        content = self.pieces.read(path, offset, size)
        content = self.copies.read(path, offset, size) if content is None else content
        self._check()
        return content

    def copy(self, path: str) -> str | None:
        self._check()
        return self.copies.copy(path)

    def _check(self) -> None:
        if self.closed():
            raise Closed
