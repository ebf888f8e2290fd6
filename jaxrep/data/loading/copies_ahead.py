"""Copy remote files to the disk before a loader needs them: those of which many examples are read soon.

A thread follows the order far ahead of the loader and counts the examples per file. A file with a large share of its
examples among them is copied as a whole, in the order of need, within the bound of the cache. The others are not:
their copies would be removed before most of their examples are read.
"""

import contextlib
import dataclasses
import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future

import numpy as np

from jaxrep.data._util.fetchers import Fetchers
from jaxrep.data.local_copy import cache_limit, local_copy
from jaxrep.data.sources.encoded import ShardedExamples
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.storage import FileVersion, is_remote

LOG = logging.getLogger(__name__)

COPIES = 8
"""Files that are copied at the same time, over all worker processes."""
HORIZON = 2**20
"""Most examples that are counted ahead of the loader."""
SCAN = 4096
"""Examples that are counted at once."""
SHARE = 0.25
"""Share of a file's examples from which on the file is copied, if they are read within the horizon."""
DISK_SHARE = 0.9
"""Share of the cache that the copies take that are needed at one time."""
WARM_UP = 8192
"""Examples before the first one of a file from which on the file's copy is awaited. The first files of a run are needed
before they can be there: their examples are read by ranges until then."""

Wanted = Callable[[int, int], Iterable[tuple[ShardedExamples, np.ndarray]]]
"""First chunk, number of chunks -> the files of their examples, and their indices there."""


@dataclasses.dataclass(eq=False)
class _File:
    """Describe a file with examples between the loader and the end of what is counted."""

    path: str
    leaf: ShardedExamples
    number: int
    first: int
    """The first chunk that needs it."""
    total: int
    """Examples of the file."""
    needed: int = 0
    """Examples of it that are counted and not yet read."""
    version: FileVersion | None = None
    copy: Future[str] | None = None
    awaited: bool = False
    """Whether a read waits for the copy."""

    def is_dense(self) -> bool:
        return self.needed >= SHARE * self.total or (self.leaf.only_whole and self.needed > 0)

    def has_copy(self) -> bool:
        done = self.copy is not None and self.copy.done() and not self.copy.cancelled()
        return done and self.copy is not None and self.copy.exception() is None


class CopiesAhead:
    """Copy the files that a loader needs soon."""

    def __init__(self, wanted: Wanted, chunk_size: int, length: int, processes: int):
        """Start a thread that counts, and those that copy.

        Args:
            wanted: states the examples of some chunks.
            chunk_size: examples per chunk.
            length: examples of an epoch.
            processes: processes that copy files for the same loader.
        """
        self._wanted, self._step = wanted, max(SCAN // chunk_size, 1)
        self._horizon, self._warm_up = min(HORIZON, 2 * length) // chunk_size + 1, -(-WARM_UP // chunk_size)
        self._limit = int(cache_limit() * DISK_SHARE)
        self._files: dict[str, _File] = {}
        self._counted: deque[tuple[int, dict[str, int]]] = deque()  # last chunk -> examples by file
        self._end, self._passed, self._closed = -1, -1, False
        self._fetchers = Fetchers(max(COPIES // processes, 1), "copies-ahead")
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="copies-ahead", daemon=True)
        self._thread.start()

    def copy(self, path: str) -> str | None:
        """Return the copy of a file, which may be waited for; None: there is none, or it is not awaited."""
        file = self._files.get(path)
        if file is None or file.copy is None or not (file.awaited or file.copy.done()):
            return None
        with contextlib.suppress(Exception):  # whoever reads the file meets the same error, or another way
            return file.copy.result()
        return None

    def read(self, path: str, offset: int, size: int) -> bytes | None:
        """Return bytes of the copy of a file; None: there is none, or it was removed."""
        if (copy := self.copy(path)) is None:
            return None
        with contextlib.suppress(FileNotFoundError), open(copy, "rb") as file:
            file.seek(offset)
            return file.read(size)
        return None

    def covers(self, path: str) -> bool:
        """Return whether the reads of a file take its copy."""
        file = self._files.get(path)
        return file is not None and (file.has_copy() or (file.awaited and not (file.copy and file.copy.done())))

    def move(self, passed: int) -> None:
        """Note that all chunks before ``passed`` are over."""
        with self._changed:
            self._passed = max(self._passed, passed)
            self._changed.notify_all()

    def close(self) -> None:
        """Cancel all, and return when no thread is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._fetchers.close()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._can_count() or self._can_forget())
                if self._closed:
                    return
                self._end = max(self._end, self._passed)
            if self._can_forget():
                self._forget()
            if self._can_count():
                self._count()
            self._start()

    def _can_count(self) -> bool:
        return self._passed >= 0 and self._end < self._passed + self._horizon

    def _can_forget(self) -> bool:
        return bool(self._counted) and self._counted[0][0] <= self._passed

    def _count(self) -> None:
        """Count the examples of the next chunks by file."""
        counts: dict[str, int] = {}
        for leaf, indices in self._wanted(self._end, self._step):
            numbers, sizes = np.unique(np.searchsorted(leaf.shard_ends, indices, side="right"), return_counts=True)
            totals = np.diff(leaf.shard_ends, prepend=0)[numbers]
            for number, size, total in zip(numbers.tolist(), sizes.tolist(), totals.tolist(), strict=True):
                path = leaf.paths[int(number)]
                if is_remote(path):
                    file = self._files.setdefault(path, _File(path, leaf, number, self._end, total))
                    file.needed += size
                    counts[path] = counts.get(path, 0) + size
        self._end += self._step
        self._counted.append((self._end, counts))

    def _forget(self) -> None:
        """Take off the examples that were read, and the files of which no example is left."""
        while self._can_forget():
            for path, count in self._counted.popleft()[1].items():
                file = self._files[path]
                file.needed -= count
                if not file.needed:
                    del self._files[path]
                    if file.copy:
                        file.copy.cancel()

    def _start(self) -> None:
        """Start the copies for which the cache has room, in the order of need."""
        files = sorted((file for file in self._files.values() if file.copy or file.is_dense()), key=lambda x: x.first)
        used = sum(file.version.size for file in files if file.copy and file.version)
        for file in files:
            if file.copy:
                continue
            try:
                file.version = file.version or file.leaf.version(file.number)
                if file.version.size > self._limit:
                    raise UsageError(f"{file.path} is larger than the cache")
            except JaxrepError as error:  # whoever reads the file meets it, or reads ranges
                file.copy = Future()
                file.copy.set_exception(error)
                continue
            if used + file.version.size > self._limit:
                return
            used += file.version.size
            self._keep()
            file.awaited = file.first >= self._passed + self._warm_up
            read = functools.partial(local_copy, file.path, file.version, self._fetchers.pause)
            file.copy = self._fetchers.submit(file.first, read)
            file.copy.add_done_callback(self._note)

    def _keep(self) -> None:
        """Mark the copies that are needed as used, so that no other copy takes their room."""
        for file in list(self._files.values()):
            if file.has_copy() and file.copy:
                with contextlib.suppress(OSError):
                    os.utime(file.copy.result())

    def _note(self, copy: Future[str]) -> None:
        if not copy.cancelled() and isinstance(error := copy.exception(), UsageError) and self._limit:
            self._limit = 0
            LOG.warning("%s. This run reads further remote files by the ranges of single examples", error)
