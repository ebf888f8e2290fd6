"""Read and write files on this machine's disks, or behind a URL that fsspec knows (gs://, s3://, https://, memory://).

A path is a string. Operations that fail are retried, each time after a longer wait.
"""

import contextlib
import io
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeVar, cast

from jaxrep.disk_cache import write_atomically
from jaxrep.errors import BadShard, JaxrepError, UsageError

T = TypeVar("T")

RETRY_WAITS = (0.5, 2.0)
"""Seconds before each retry of a failed read; training then waits for the shard (``reader.RETRY_WAITS``)."""

PERMANENT_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""Errors that a retry cannot fix."""

MISSING_STATUSES = (401, 403, 404, 410)
"""Answers of a web server that stand for a missing file. Stores that may not be listed say 403 of one."""

BLOCK_SIZE = 16 * 2**20
"""Bytes per request when a remote file is read from start to end."""

CREDENTIALS = (
    "give credentials to the driver of the store, by its own variables (AWS_ACCESS_KEY_ID, "
    "GOOGLE_APPLICATION_CREDENTIALS, HF_TOKEN) or by fsspec's (FSSPEC_HTTPS; docs/data.md)"
)
"""The end of a sentence on a URL with a password or a token."""

DRIVERS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3", "http": "http", "https": "http", "hf": "hub"}
"""Protocol -> the extra of jaxrep that brings its driver."""

GIB = 2**30


class Traffic(NamedTuple):
    """Count the reads of this process since it started. The counts only grow; each worker process has its own."""

    requests: int = 0
    """Reads of files, each a request to a store or a read of a local disk, and questions for a file's version."""
    bytes: int = 0
    """Bytes that these returned."""
    hits: int = 0
    """Reads of remote files that took what was read ahead or copied before, without a request."""


_traffic, _traffic_lock = Traffic(), threading.Lock()


def traffic() -> Traffic:
    """Return the reads of local and remote files by this process so far."""
    return _traffic


def count_traffic(requests: int = 0, size: int = 0, hits: int = 0) -> None:
    """Add to the traffic of this process."""
    global _traffic
    with _traffic_lock:
        _traffic = Traffic(_traffic.requests + requests, _traffic.bytes + size, _traffic.hits + hits)


class FileVersion(NamedTuple):
    """Identify one version of a file."""

    size: int
    stamp: str  # of the last change: a time, or the version id of the store


def is_remote(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def filesystem(path: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and its path there. Raises UsageError: there is none."""
    import fsspec.core

    if "YOUR-BUCKET" in path:
        raise UsageError(f"{path} is a placeholder of an experiment: name your own data, as by --data.train")
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        extra = DRIVERS.get(path.partition("://")[0], "")
        need = f"its driver is not installed: pip install 'jaxrep[{extra}]'" if extra else str(error).rstrip(".")
        raise UsageError(f"{path} cannot be reached: {need}") from error
    except ValueError as error:
        raise UsageError(f"{path} cannot be reached: {str(error).rstrip('.')}") from error


def file_version(path: str) -> FileVersion:
    """Return size and time stamp of a file. Raises BadShard: it cannot be read."""
    return _retry(path, lambda: _file_version(path))


def _file_version(path: str) -> FileVersion:
    if not is_remote(path):
        state = os.stat(path)
        return FileVersion(state.st_size, str(state.st_mtime_ns))
    files, name = filesystem(path)
    # Ask the store, not the driver's cache; that of hf:// would list the file's folder again for each file.
    options = {"expand_info": True} if path.startswith("hf://") else files.invalidate_cache(name) or {}
    count_traffic(requests=1)
    info = files.info(name, **options)
    if info.get("size") is None:
        raise BadShard(f"{path} cannot be read (the server does not tell its size, by which ranges of it are read)")
    names = ("ETag", "etag", "mtime", "LastModified", "Last-Modified", "updated", "created", "blob_id")
    return FileVersion(int(info["size"]), str(next((info[name] for name in names if info.get(name)), "")))


class ReadBefore(Protocol):
    """Hold what was read of remote files before it is needed."""

    def read(self, path: str, offset: int, size: int) -> bytes | None:
        """Return what ``read_bytes`` would; None: it was not read before."""

    def copy(self, path: str) -> str | None:
        """Return a local file with the content of ``path``; None: there is none."""


_read_before: ContextVar[ReadBefore | None] = ContextVar("read_before", default=None)


@contextlib.contextmanager
def reading_from(before: ReadBefore) -> Iterator[None]:
    """Let this thread's reads of remote files inside the context take what ``before`` holds."""
    token = _read_before.set(before)
    try:
        yield
    finally:
        _read_before.reset(token)


def read_bytes(path: str, offset: int = 0, size: int = -1, pause: Callable[[float], object] = time.sleep) -> bytes:
    """Read ``size`` bytes from ``offset`` on (-1: all); fewer if the file ends before. Raises BadShard.

    ``pause`` waits so many seconds before a retry.
    """
    before = _read_before.get() if is_remote(path) else None
    if before and (content := before.read(path, offset, size)) is not None:
        count_traffic(hits=1)
        return content
    return _retry(path, lambda: _read_bytes(path, offset, size), pause)


def _read_bytes(path: str, offset: int, size: int) -> bytes:
    if is_remote(path):
        files, name = filesystem(path)
        # Keywords, since the second argument differs in stores that have versions of files.
        ahead = {"cache_type": "none"} if path.startswith("hf://") else {}  # or each read fetches megabytes more
        end = None if size < 0 else offset + size
        content = files.cat_file(name, start=offset or None, end=end, **ahead) if size else b""
        if end is not None and len(content) > size:
            raise OSError("the server gives the whole file where a range of it is asked for")
    else:
        with _open_regular(path) as file:
            file.seek(offset)
            content = file.read(size)
    count_traffic(requests=1, size=len(content))
    return content


def open_stream(path: str) -> IO[bytes]:
    """Open a file to read it from start to end, a remote one in large blocks. Raises BadShard, also later reads do."""
    if is_remote(path):
        return io.BufferedReader(_RemoteFile(path), BLOCK_SIZE)
    return _retry(path, lambda: _open_regular(path, _CountedFile))


def _open_at_once(path: str, flags: int) -> int:
    """Open a file; a pipe without waiting for what writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _CountedFile(io.FileIO):
    """Count the reads of a local file."""

    def readinto(self, buffer: Any) -> int:
        size = super().readinto(buffer) or 0
        count_traffic(1, size)
        return size

    def readall(self) -> bytes:
        content = super().readall() or b""
        count_traffic(1, len(content))
        return content


def _open_regular(path: str, kind: type[io.FileIO] = io.FileIO) -> IO[bytes]:
    """Open a local file. Raises BadShard: it is a device or a pipe, which may have no end or never begin."""
    with contextlib.ExitStack() as closing:
        file = closing.enter_context(io.BufferedReader(kind(path, opener=_open_at_once)))
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BadShard(f"{path} cannot be read (it is no regular file)")
        closing.pop_all()
        return file


def open_ranges(path: str) -> IO[bytes]:
    """Open a file to read single ranges, without read-ahead. Raises BadShard, as ``open_stream``."""
    before = _read_before.get() if is_remote(path) else None
    if before and (copy := before.copy(path)):
        count_traffic(hits=1)
        return open_stream(copy)
    return cast(IO[bytes], _RemoteFile(path)) if is_remote(path) else open_stream(path)


class _RemoteFile(io.RawIOBase):
    """Read any range of a remote file."""

    def __init__(self, path: str):
        self._path, self._size, self._position = path, file_version(path).size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = max(min(len(buffer), self._size - self._position), 0)
        content = read_bytes(self._path, self._position, size)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def retry(
    action: Callable[[], T],
    waits: Iterable[float],
    fault: Callable[[str], JaxrepError],
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """Return ``action()``; call it again after each wait, unless the file is missing or access is denied.

    Args:
        action: reads or writes.
        waits: seconds before each further call.
        fault: returns the error to raise at last, given the reason in a few words.
        pause: waits so many seconds, or raises to end the attempts.
    """
    waits = iter(waits)
    while True:
        try:
            return action()
        except JaxrepError:
            raise
        except Exception as error:  # the drivers of stores raise errors of their own types
            reason, wait = _reason(error), next(waits, None)
            if wait is None or isinstance(reason, PERMANENT_ERRORS):
                raise fault(describe_error(reason)) from reason
            pause(wait)


def _reason(error: Exception) -> Exception:
    """Return why a read failed: the driver of https:// says of every failure that the file is missing."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return error
    of_server = type(cause).__module__.startswith("aiohttp") and getattr(cause, "status", 0) not in MISSING_STATUSES
    return cause if of_server or isinstance(cause, TimeoutError | ConnectionError) else error


def _retry(path: str, read: Callable[[], T], pause: Callable[[float], object] = time.sleep) -> T:
    return retry(read, RETRY_WAITS, lambda why: BadShard(f"{path} cannot be read ({why})"), pause)


def describe_error(error: Exception) -> str:
    """Return an error in a few words."""
    if isinstance(error, FileNotFoundError):
        of_hub = re.search(r"\((repository|revision) not found\)", str(error))
        return f"{of_hub[1]} not found, or private and read without a token" if of_hub else "No such file"
    words = (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
    # Of httpx, by which the hub's client connects; it is not imported for this.
    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):
        return f"no connection, {words}: try again when there is a network, or name another server by HF_ENDPOINT"
    return words


# Write ----------------------------------------------------------------------------------------------------------


def check_out(path: Path | None, option: str = "--out") -> None:
    """Check before the work that a file can be written at ``path``. Raises UsageError: it is a link, device or folder.

    ``write_file`` puts a new file in the place of the old one, which no device or link survives.
    """
    if path is None:
        return
    if os.path.islink(path) or (os.path.exists(path) and not os.path.isfile(path)):
        wrong = "it is a folder" if os.path.isdir(path) else "it is a link or a device: give a regular file"
    elif not os.path.isdir(path.parent):
        wrong = f"there is no folder {path.parent}"
    else:
        return
    raise UsageError(f"{option} {path} cannot be written: {wrong}")


def utf8(text: str) -> bytes:
    """Encode a text that leaves the program: a byte of a file's name that is not Unicode becomes an escape."""
    return text.encode(errors="backslashreplace")


def write_file(path: str, content: bytes) -> None:
    """Write a file that appears complete or not at all. Raises UsageError: it cannot be written."""
    try:
        if is_remote(path):
            files, name = filesystem(path)
            files.pipe_file(name, content)  # a store shows an object when it is complete
        else:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            write_atomically(Path(path), lambda file: file.write(content))
    except JaxrepError:
        raise
    except Exception as error:  # the drivers of stores raise errors of their own types
        raise UsageError(f"{path} cannot be written ({describe_error(error)})") from error
