"""Arrays that are computed once and kept on disk.

A file is the SHA-256 of what follows, then the array as ``numpy.save`` writes it. It appears in its place whole or
not at all, so any number of processes may make the same one; a damaged one is made again.
"""

import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from jaxrep.errors import UsageError


def cache_dir() -> Path:
    """``$JAXREP_CACHE``, or ``~/.cache/jaxrep``."""
    return Path(os.environ.get("JAXREP_CACHE") or Path.home() / ".cache" / "jaxrep").expanduser()


def cached(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array kept under ``name`` in the cache; or ``make()`` where it is missing or damaged.

    ``name`` holds everything that the array depends on (versions, sizes). Raises UsageError where the cache cannot be
    written.
    """
    path = cache_dir() / name
    if path.exists():
        array = _read(path)
        if array is not None:
            return array
        print(f"{path} is damaged; making it again", file=sys.stderr)
    # Fails before the work is done, not after it.
    explain_os_errors(path, lambda: path.parent.mkdir(parents=True, exist_ok=True))
    array = make()
    explain_os_errors(path, lambda: _write(path, array))
    return array


def _read(path: Path) -> np.ndarray | None:
    content = path.read_bytes()
    digest, body = content[:32], content[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    return np.load(io.BytesIO(body), allow_pickle=False)


def _write(path: Path, array: np.ndarray) -> None:
    body = io.BytesIO()
    np.save(body, array, allow_pickle=False)
    digest = hashlib.sha256(body.getbuffer()).digest()
    write_atomically(path, lambda file: file.writelines((digest, body.getbuffer())))


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """The file that ``write`` fills, moved to its place when it is complete; nothing is left of one that is not."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def explain_os_errors(path: Path, write: Callable[[], object]) -> None:
    """``write()``, whose failure is a sentence on the cache. Raises UsageError."""
    try:
        write()
    except OSError as error:
        raise UsageError(
            f"the cache file {path} cannot be written ({error.strerror}): "
            "make room or give permission there, or name another folder by JAXREP_CACHE"
        ) from error
