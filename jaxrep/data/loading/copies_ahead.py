"""Copy remote files to the disk before a loader needs them: those of which many examples are read soon.

A thread follows the order far ahead of the loader and counts the examples per file. A file with a large share of its
examples among them is copied as a whole. Others are not: their copies would be removed before most of their examples
are read. The cache holds the files that are needed next, as far as it has room.
"""

import contextlib
import functools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

import numpy as np

from jaxrep.data._util.fetchers import Planner
from jaxrep.data.local_copy import cache_limit, local_copy
from jaxrep.data.sources.encoded import ShardedExamples
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.storage import FileVersion, is_remote

LOG = logging.getLogger(__name__)

COPIES = 8
"""Files that are copied at the same time, over all worker processes."""
HORIZON = 2**20
"""Most examples that are counted ahead of the loader, and at most half an epoch."""
SCAN = 4096
"""Examples that are counted at once."""
SHARE = 0.25
"""Share of a file's examples from which on the file is copied, if they are read within the horizon."""
DISK_SHARE = 0.9
"""Share of the cache for the files that are needed next."""
WARM_UP = 8192
"""Examples before the first one of a file from which on the file's copy is awaited. The first files of a run are needed
before they can be there: their examples are read by ranges until then."""

SOON = 4
"""Counts of examples within which the next need of all files is alike, so that copies do not displace one another."""

Wanted = Callable[[int, int], Iterable[tuple[ShardedExamples, np.ndarray]]]
"""First chunk, number of chunks -> the files of their examples, and their indices there."""


class CopiesAhead(Planner):
    """Copy the files that a loader needs next."""

    def __init__(self, leaves: Sequence[ShardedExamples], wanted: Wanted, chunk_size: int, length: int, processes: int):
        """Start a thread that counts, and those that copy.

        Args:
            leaves: all examples in files.
            wanted: states the examples of some chunks, one after the other of ``leaves``.
            chunk_size: examples per chunk.
            length: examples of an epoch.
            processes: processes that copy files for the same loader.
        """
        self._limit = int(cache_limit() * DISK_SHARE)
        super().__init__(max(COPIES // processes, 1), "copies-ahead")
        self._wanted, self._step = wanted, max(SCAN // chunk_size, 1)
        # Orders hold the plans of two epochs, so no third one may be asked for at the same time.
        self._horizon, self._warm_up = min(HORIZON, length // 2) // chunk_size + 1, -(-WARM_UP // chunk_size)
        self._list_files(leaves)
        self._needed, self._next = np.zeros((2, len(self._paths)), np.int64)
        self._counted: deque[tuple[int, np.ndarray, np.ndarray]] = deque()  # last chunk, files, their examples
        self._end = -1
        self._versions: dict[int, FileVersion | None] = {}
        self._copies: dict[int, Future[str]] = {}
        self._awaited: set[int] = set()
        self.start()

    def _list_files(self, leaves: Sequence[ShardedExamples]) -> None:
        """List the files of all leaves; a file that several read has one number."""
        self._files = [(leaf, number) for leaf in leaves for number in range(len(leaf.paths))]
        self._paths = [leaf.paths[number] for leaf, number in self._files]
        self._numbers: dict[str, int] = {}
        for number, path in enumerate(self._paths):
            self._numbers.setdefault(path, number)
        self._same = np.array([self._numbers[path] for path in self._paths], np.int64)
        self._starts = np.cumsum([0, *(len(leaf.paths) for leaf in leaves)])
        totals = np.concatenate([np.diff(leaf.shard_ends, prepend=0) for leaf in leaves])
        least = np.where([leaf.only_whole for leaf, _ in self._files], 1, np.maximum(np.ceil(SHARE * totals), 1))
        self._least = np.where([is_remote(path) for path in self._paths], least, np.inf)

    def copy(self, path: str) -> str | None:
        """Return the copy of a file, which may be waited for; None: there is none, or it is not awaited."""
        number = self._numbers.get(path, -1)
        copy = self._copies.get(number)
        if copy is None or not (number in self._awaited or copy.done()):
            return None
        with contextlib.suppress(Exception):  # whoever reads the file meets the same error, or reads ranges
            return name if os.path.exists(name := copy.result()) else None
        return None

    def read(self, path: str, offset: int, size: int) -> bytes | None:
        """Return bytes of the copy of a file; None: there is none."""
        if (copy := self.copy(path)) is None:
            return None
        with contextlib.suppress(FileNotFoundError), open(copy, "rb") as file:
            file.seek(offset)
            return file.read(size)
        return None

    def covers(self, path: str) -> bool:
        """Return whether the reads of a file take its copy."""
        number = self._numbers.get(path, -1)
        copy = self._copies.get(number)
        if copy is None or copy.done():
            return self.copy(path) is not None
        return number in self._awaited

    def forget(self) -> None:
        """Leave it to ``work``: to find the next need of a file takes time."""

    def has_work(self) -> bool:
        return self._can_count() or self._can_forget()

    def work(self) -> None:
        self._end = max(self._end, self.passed)
        if self._can_forget():
            self._take_off()
        if self._can_count():
            self._count()
        self._start_copies()

    def _can_count(self) -> bool:
        return self.passed >= 0 and self._end < self.passed + self._horizon

    def _can_forget(self) -> bool:
        return bool(self._counted) and self._counted[0][0] <= self.passed

    def _count(self) -> None:
        """Count the examples of the next chunks by file."""
        numbers = [
            self._same[start + np.searchsorted(leaf.shard_ends, indices, side="right")]
            for start, (leaf, indices) in zip(self._starts, self._wanted(self._end, self._step), strict=False)
        ]
        files, counts = np.unique(np.concatenate(numbers), return_counts=True)
        self._next[files] = np.where(self._needed[files] == 0, self._end, self._next[files])
        self._needed[files] += counts
        self._end += self._step
        self._counted.append((self._end, files, counts))

    def _take_off(self) -> None:
        """Take off the examples that were read, and find the next need of their files."""
        _, files, counts = self._counted.popleft()
        self._needed[files] -= counts
        for number in files[self._needed[files] == 0].tolist():
            self._forgive(number)
        files = files[self._needed[files] > 0]
        for end, later, _ in self._counted:
            if not len(files):
                break
            found = np.isin(files, later)
            self._next[files[found]] = end - self._step
            files = files[~found]

    def _forgive(self, number: int) -> None:
        """Forget that a file could not be copied, once it is read: it may be copied when it is needed again."""
        copy = self._copies.get(number)
        if copy and copy.done() and not copy.cancelled() and copy.exception():
            del self._copies[number]
        if self._versions.get(number, True) is None:
            del self._versions[number]

    def _start_copies(self) -> None:
        """Start the copies of the files that are needed next, as far as the cache has room for them."""
        dense = np.flatnonzero(self._needed >= self._least)
        soon = np.maximum(self._next[dense], self.passed + SOON * self._step)
        missing = np.array([self._copy_of(number) is None for number in dense.tolist()], bool)
        used, kept = 0, []
        for number in dense[np.lexsort((missing, soon))].tolist():
            version = self._version(number)
            if version is None or version.size > self._limit:
                continue
            used += version.size
            if used > self._limit:
                break
            kept.append((number, version))
        for number, version in kept:
            if self._copy_of(number) is None and not self.closed:
                self._keep([number for number, _ in kept])
                self._submit(number, version)

    def _submit(self, number: int, version: FileVersion) -> None:
        first = int(self._next[number])
        if first >= self.passed + self._warm_up:
            self._awaited.add(number)
        else:
            self._awaited.discard(number)
        read = functools.partial(local_copy, self._paths[number], version, self.fetchers.pause)
        self._copies[number] = self.fetchers.submit(first, read)
        self._copies[number].add_done_callback(self._note)

    def _copy_of(self, number: int) -> Future[str] | None:
        """Return the copy of a file that is there, under way, or failed; None: it is to be made."""
        copy = self._copies.get(number)
        if copy is None or copy.cancelled() or not copy.done() or copy.exception():
            return copy
        return copy if os.path.exists(copy.result()) else None

    def _version(self, number: int) -> FileVersion | None:
        """Return the version of a file to copy; None: it cannot be known, which whoever reads the file meets."""
        if number not in self._versions:
            leaf, place = self._files[number]
            with contextlib.suppress(JaxrepError):
                self._versions[number] = leaf.version(place)
        return self._versions.setdefault(number, None)

    def _keep(self, numbers: Sequence[int]) -> None:
        """Mark copies as used, the one that is needed first as the last one: others make room before them."""
        for number in reversed(numbers):
            with contextlib.suppress(Exception):
                if (copy := self._copies.get(number)) and copy.done():
                    os.utime(copy.result())

    def _note(self, copy: Future[str]) -> None:
        if not copy.cancelled() and isinstance(error := copy.exception(), UsageError) and self._limit:
            self._limit = 0
            LOG.warning("%s. This run reads further remote files by the ranges of single examples", error)
