"""Count what the processes of a loader read and compute, so that a run shows where the time of its data goes."""

import threading
import time
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from jaxrep.storage import traffic


class Usage(NamedTuple):
    """Hold the reads and the processor time of a span of time."""

    requests: int = 0
    """Reads of local and remote files."""
    bytes: int = 0
    """Bytes that these returned."""
    hits: int = 0
    """Reads of remote files without a request: read ahead, or in the cache."""
    cpu_ns: int = 0
    """Nanoseconds of processor time."""

    def since(self, before: "Usage") -> "Usage":
        """Return what was used after ``before``."""
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))

    def metrics(self) -> dict[str, float]:
        """Return the metrics to log with those of a step; none where no file was read."""
        reads = {"requests": self.requests, "bytes_read": self.bytes, "cache_hits": self.hits}
        return {f"data/{name}": float(n) for name, n in reads.items()} if self.requests or self.hits else {}


def process_usage() -> Usage:
    """Return what this process has used since it started."""
    return Usage(*traffic(), time.process_time_ns())


class UsageMeter:
    """Give what this process has used since the last call, or since it was made or unpickled; to any of its threads."""

    def __init__(self):
        self._last, self._lock = process_usage(), threading.Lock()

    def __call__(self) -> Int64[np.ndarray, "4"]:
        """Return the fields of a ``Usage``."""
        with self._lock:
            now = process_usage()
            used, self._last = now.since(self._last), now
        return np.array(used, np.int64)

    def __reduce__(self):
        return type(self), ()
