"""Files wherever they lie: on this machine's disks, or behind a URL that fsspec knows (gs://, s3://, https://, memory://).

A path is a string. What fails for a moment is tried again, each time after a longer wait; a reader that wants a local
file is given a copy in a cache of bounded size.
"""

import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

from jaxrep.disk_cache import cache_dir, explain_os_errors, write_atomically
from jaxrep.errors import BadShard, JaxrepError, UsageError

T = TypeVar("T")

WAITS = (0.5, 2.0)
"""Seconds before a read that failed is tried again; training then waits for the shard (``reader.WAITS``)."""

FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Failures that waiting does not mend."""

BLOCK = 16 * 2**20
"""Bytes that are asked for at once where a remote file is read from its start to its end."""

GIB = 2**30


class Facts(NamedTuple):
    """What tells one version of a file from the next."""

    size: int
    stamp: str  # of the last change: a time, or what the store calls a version


def remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def store(path: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the URL's path in it. Raises UsageError: no such store, or no driver."""
    import fsspec.core

    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{path} cannot be reached: {str(error).rstrip('.')}") from error


def facts(path: str) -> Facts:
    """Size and time stamp of a file. Raises BadShard where it cannot be seen."""
    return _patiently(path, lambda: _facts(path))


def _facts(path: str) -> Facts:
    if not remote(path):
        state = os.stat(path)
        return Facts(state.st_size, str(state.st_mtime_ns))
    files, name = store(path)
    files.invalidate_cache(name)  # what the store says now, not what it said
    found = files.info(name)
    names = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "updated", "created")
    return Facts(int(found["size"] or 0), str(next((found[name] for name in names if found.get(name)), "")))


def read(path: str, offset: int = 0, size: int = -1) -> bytes:
    """``size`` bytes from ``offset`` on, all where it is -1; fewer where the file ends. Raises BadShard."""
    return _patiently(path, lambda: _read(path, offset, size))


def _read(path: str, offset: int, size: int) -> bytes:
    if remote(path):
        files, name = store(path)
        # by name: the second argument is another one where a store has versions of files
        return files.cat_file(name, start=offset or None, end=None if size < 0 else offset + size) if size else b""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def stream(path: str) -> IO[bytes]:
    """A file to read forwards, a remote one in large pieces. Raises BadShard, now or when it is read."""
    if remote(path):
        return io.BufferedReader(_Blocks(path), BLOCK)
    return _patiently(path, lambda: open(path, "rb"))


def ranges(path: str) -> IO[bytes]:
    """A file of which single ranges are read, a remote one without reading ahead. Raises BadShard, as ``stream``."""
    return cast(IO[bytes], _Blocks(path)) if remote(path) else stream(path)


class _Blocks(io.RawIOBase):
    """A remote file of which any piece can be asked for."""

    def __init__(self, path: str):
        self._path, self._size, self._at = path, facts(path).size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self._size - self._at), 0)
        content = read(self._path, self._at, wanted)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def _patiently(path: str, read: Callable[[], T]) -> T:
    """``read()``, tried again after each of ``WAITS`` unless the file is missing or may not be read."""
    for wait in (*WAITS, None):
        try:
            return read()
        except JaxrepError:
            raise
        except Exception as error:  # the drivers of stores raise errors of their own types
            if wait is None or isinstance(error, FINAL):
                raise BadShard(f"{path} cannot be read ({told(error)})") from error
            time.sleep(wait)
    raise AssertionError("unreachable")


def told(error: Exception) -> str:
    """An error in a few words."""
    if isinstance(error, FileNotFoundError):
        return "No such file"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


# Written and copied -------------------------------------------------------------------------------------------------


def write_file(path: str, content: bytes) -> None:
    """A file of this content, in its place whole or not at all. Raises UsageError where it cannot be written."""
    if remote(path):
        files, name = store(path)
        try:
            files.pipe_file(name, content)  # a store shows an object when it is complete
        except Exception as error:
            raise UsageError(f"{path} cannot be written ({told(error)})") from error
        return
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        write_atomically(Path(path), lambda file: file.write(content))
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror})") from error


def fetched(path: str) -> str:
    """A local file with the content of ``path``: itself, or a copy in the cache, where the oldest make room for it.

    ``$JAXREP_CACHE_GIB`` bounds the copies (100 by default). A copy may be removed once others are fetched, so open it
    now. Raises UsageError: it is larger than that, or the disk is full; BadShard where ``path`` cannot be read.
    """
    if not remote(path):
        return path
    size, stamp = facts(path)
    digest = hashlib.sha256(f"{path}\n{size}\n{stamp}".encode()).hexdigest()[:32]
    copy = cache_dir() / "files" / digest[:2] / f"{digest}-{path.rpartition('/')[2]}"
    if not copy.exists():
        explain_os_errors(copy, lambda: copy.parent.mkdir(parents=True, exist_ok=True))
        _make_room(size, path)
        with stream(path) as source:
            explain_os_errors(
                copy, lambda: write_atomically(copy, lambda file: shutil.copyfileobj(source, file, BLOCK))
            )
    os.utime(copy)  # the time of its last use
    return str(copy)


def _make_room(size: int, path: str) -> None:
    limit = float(os.environ.get("JAXREP_CACHE_GIB") or 100) * GIB
    if size > limit:
        raise UsageError(
            f"{path} is {size / GIB:.3g} GiB, and the cache holds {limit / GIB:.3g}: raise JAXREP_CACHE_GIB"
        )
    copies = [(state.st_mtime, state.st_size, file) for file, state in _states(cache_dir() / "files")]
    used = sum(held for _, held, _ in copies)
    for _, held, file in sorted(copies):
        if used + size <= limit:
            return
        file.unlink(missing_ok=True)
        used -= held


def _states(root: Path) -> list[tuple[Path, os.stat_result]]:
    return [(file, file.stat()) for file in root.glob("*/*") if file.is_file()]
