"""A store that answers slowly: files of this machine behind ``slow://``, with a delay, a bandwidth, counts and faults.

A worker process registers it when it imports this module, as for ``identity``.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import fsspec
from fsspec.spec import AbstractFileSystem

LOG_VARIABLE = "SLOW_STORE_LOG"
"""Variable of the environment with a file to which every process appends a line per request."""


class SlowStore(AbstractFileSystem):
    """Read local files by requests of ``delay`` seconds, with ``bandwidth`` bytes per second for all together."""

    protocol = "slow"
    delay = 0.03
    bandwidth = 500e6
    fault: Callable[[str, int], None] = staticmethod(lambda path, start: None)
    """Called in every request, with the path and the first byte; it may raise."""
    requests: ClassVar[list[tuple[str, int, int]]] = []
    """The path, first byte and bytes of each answer of this process; a question for a version has -1 bytes."""
    active = most_active = 0
    _free_at, _lock = 0.0, threading.Lock()

    @classmethod
    def reset(cls, delay=0.0, bandwidth=500e6):
        """Forget what was counted and set the speed."""
        cls.delay, cls.bandwidth, cls.fault = delay, bandwidth, staticmethod(lambda path, start: None)
        cls.requests, cls.most_active, cls._free_at = [], 0, 0.0

    @classmethod
    def bytes(cls, ending=""):
        """Return the bytes that were sent of files with this ending."""
        return sum(max(size, 0) for path, _, size in cls.requests if path.endswith(ending))

    @classmethod
    def count(cls, ending=""):
        """Return the requests for files with this ending."""
        return sum(path.endswith(ending) for path, _, _ in cls.requests)

    def _answer(self, path, start, read):
        store = SlowStore
        with store._lock:
            store.active += 1
            store.most_active = max(store.active, store.most_active)
        try:
            store.fault(path, start)
            content = read()
            size = -1 if content is None else len(content)
            with store._lock:
                store._free_at = max(time.monotonic(), store._free_at) + max(size, 0) / store.bandwidth
                wait = store._free_at - time.monotonic()
                store.requests.append((path, start, size))
            time.sleep(max(wait, store.delay))
            if log := os.environ.get(LOG_VARIABLE):
                with open(log, "a") as file:
                    file.write(f"{os.getpid()} {path} {start} {size}\n")
            return content
        finally:
            with store._lock:
                store.active -= 1

    def _path(self, path) -> str:
        return "/" + str(self._strip_protocol(path)).lstrip("/")

    def info(self, path, **_):
        path = self._path(path)
        self._answer(path, 0, lambda: None)
        state = os.stat(path)
        return {"name": path, "size": state.st_size, "type": "file", "mtime": state.st_mtime_ns}

    def cat_file(self, path, start=None, end=None, **_):
        path, start = self._path(path), start or 0

        def read():
            with open(path, "rb") as file:
                file.seek(start)
                return file.read(-1 if end is None else end - start)

        return self._answer(path, start, read)

    def pipe_file(self, path, value, **_):
        target = Path(self._path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(value)

    def glob(self, path, **_):
        return sorted(map(str, Path("/").glob(self._path(path)[1:])))


fsspec.register_implementation("slow", SlowStore, clobber=True)


def identity(columns):
    """A transform for the loader, by which worker processes know the store."""
    return columns
