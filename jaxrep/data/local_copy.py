"""Copy remote files to a cache on a local disk, whose size is bounded: for readers of whole files, and to read ahead.

Threads and processes that want a copy at the same time share one. A copy appears complete or not at all.
"""

import contextlib
import errno
import fcntl
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from jaxrep.disk_cache import cache_dir, explain_os_errors, write_atomically
from jaxrep.errors import BadShard, UsageError
from jaxrep.storage import GIB, FileVersion, file_version, is_remote, read_bytes

REQUEST_BYTES = 8 * 2**20
"""Bytes per request; as many are in memory per copy that is under way."""
POLL_SECONDS = 0.05
"""Seconds between two looks whether another thread or process has finished a copy."""
LOCKS = 4096

Pause = Callable[[float], object]
"""Waits so many seconds, or raises to end the copy."""


def cache_limit() -> int:
    """Return the most bytes of all copies: ``$JAXREP_CACHE_GIB`` (100 by default). Raises UsageError: it is no size."""
    given = os.environ.get("JAXREP_CACHE_GIB") or "100"
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not 0 <= limit < 2**30:
        raise UsageError(f"the environment variable JAXREP_CACHE_GIB is {given!r}, and not a number of GiB from 0 on")
    return int(limit * GIB)


def local_copy(path: str, version: FileVersion | None = None, pause: Pause = time.sleep) -> str:
    """Return a local file with the content of ``path``: itself, or a copy in the cache.

    The copies that were used least recently are removed first where the cache is full. A later copy may remove this
    one, so open it now. ``version``: the version to copy; by default the one that is there.

    Raises:
        UsageError: the file is larger than the bound, or the disk is full.
        BadShard: ``path`` cannot be read, or has another version.
    """
    if not is_remote(path):
        return path
    version = version or file_version(path)
    digest = hashlib.sha256("\n".join([path, *map(str, version)]).encode()).hexdigest()[:32]
    copy = cache_dir() / "files" / digest[:2] / f"{digest}-{path.rpartition('/')[2][-50:]}"
    if not copy.is_file():
        with explain_os_errors(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
        with alone(_lock_name(digest), pause):
            if not copy.is_file():
                _fetch(path, version, copy, pause)
    with contextlib.suppress(FileNotFoundError):
        os.utime(copy)  # the time of its last use
    return str(copy)


def _fetch(path: str, version: FileVersion, copy: Path, pause: Pause) -> None:
    if version.size > cache_limit():
        sizes = f"{version.size / GIB:.3g} GiB, and the cache holds {cache_limit() / GIB:.3g}"
        raise UsageError(f"{path} is {sizes}: raise JAXREP_CACHE_GIB")

    def write(file: IO[bytes]) -> None:
        while not _take_room(file, version.size, pause):
            pause(POLL_SECONDS)  # what is being copied has all of it
        for start in range(0, version.size, REQUEST_BYTES):
            pause(0)
            file.write(read_bytes(path, start, min(REQUEST_BYTES, version.size - start), pause))
        if file.tell() != version.size or file_version(path) != version:
            raise BadShard(f"{path} has changed while it was copied")

    with explain_os_errors(copy):
        write_atomically(copy, write)


def _take_room(file: IO[bytes], size: int, pause: Pause) -> bool:
    """Make and take the room of a file; return whether there was enough."""
    with alone("room", pause):
        if not _make_room(size):
            return False
        _reserve(file, size)
    return True


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room of a file from the disk, which is full now or never. Raises OSError."""
    try:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
    except (AttributeError, OSError) as error:  # a system or a file system without it
        if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        file.truncate(size)


def _lock_name(digest: str) -> str:
    """Return the name of the lock of a copy."""
    return f"{int(digest, 16) % LOCKS:03x}"


@contextlib.contextmanager
def alone(name: str, pause: Pause) -> Iterator[None]:
    """Wait until no other thread or process is in the context of this name; a disk without locks waits for none."""
    path = cache_dir() / "locks" / name
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                pause(POLL_SECONDS)
            except OSError:
                break
        yield
    finally:
        os.close(lock)


def _copies() -> dict[Path, os.stat_result]:
    """Return all copies, complete or not, with their sizes and times."""
    while True:
        # A copy that another thread has completed since the listing has another name: it would be missed.
        with contextlib.suppress(FileNotFoundError):
            return {file: file.stat() for file in (cache_dir() / "files").glob("*/*")}


def _make_room(size: int) -> bool:
    """Remove the copies that were used least recently, until ``size`` bytes more are within the bound.

    What another thread or process is copying stays. Returns whether there is room.
    """
    copies = _copies()
    used = sum(state.st_size for state in copies.values())
    for file in sorted(copies, key=lambda file: copies[file].st_mtime):
        if used + size <= cache_limit():
            break
        if not _is_under_way(file):
            file.unlink(missing_ok=True)
            used -= copies[file].st_size
    return used + size <= cache_limit()


def _is_under_way(file: Path) -> bool:
    """Return whether a thread or process fills a copy: until it ends, it holds the lock of the copy."""
    if not file.name.startswith("."):
        return False
    with contextlib.suppress(OSError, ValueError), open(cache_dir() / "locks" / _lock_name(file.name[1:33])) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
