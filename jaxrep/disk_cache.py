"""Keep computed arrays on disk.

A file is the SHA-256 of the array's bytes, then the array as ``numpy.save`` writes it. A file appears complete or not
at all, so several processes may write the same one. A damaged file is computed again.
"""

import contextlib
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from jaxrep.errors import UsageError


def cache_dir() -> Path:
    """Return ``$JAXREP_CACHE``, or ``~/.cache/jaxrep``."""
    return Path(os.environ.get("JAXREP_CACHE") or Path.home() / ".cache" / "jaxrep").expanduser()


def cached(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array under ``name`` in the cache, or ``make()`` if it is missing or damaged.

    ``name`` must contain everything that the array depends on (versions, sizes). Raises UsageError: the cache cannot be
    written.
    """
    path = cache_dir() / name
    if path.exists():
        content = path.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return np.load(io.BytesIO(content[32:]), allow_pickle=False)
        print(f"{path} is damaged; making it again", file=sys.stderr)
    # Fails before the work is done, not after it.
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    array, body = make(), io.BytesIO()
    np.save(body, array, allow_pickle=False)
    digest = hashlib.sha256(body.getbuffer()).digest()
    with explain_os_errors(path):
        write_atomically(path, lambda file: file.writelines((digest, body.getbuffer())))
    return array


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file, and move it to ``path`` when it is complete."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


@contextlib.contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError inside the context into a sentence about the cache. Raises UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"the cache file {path} cannot be written ({error.strerror}): "
            "make room or give permission there, or name another folder by JAXREP_CACHE"
        ) from error
