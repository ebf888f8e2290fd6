"""Keep computed arrays on disk.

A file is the SHA-256 of the array's bytes, then the array as ``numpy.save`` writes it. A file appears complete or not
at all, so several processes may write the same one. A damaged file is computed again.
"""

import contextlib
import functools
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from jaxrep.errors import UsageError
from jaxrep.npy import read_npy

LOG = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Return the folder of the cache: ``$JAXREP_CACHE``, or ``jaxrep`` in ``$XDG_CACHE_HOME`` or in ``~/.cache``.

    If that cannot be written, it is a folder of this user among the temporary ones, with a warning.
    """
    try:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(os.environ.get("JAXREP_CACHE") or Path(base, "jaxrep")).expanduser()
    except RuntimeError as error:  # this user has no home
        return _temporary(str(error))
    existing = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return folder
    return _temporary(f"{folder} cannot be written")


@functools.cache
def _temporary(reason: str) -> Path:
    folder = Path(tempfile.gettempdir(), f"jaxrep-{os.getuid()}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir() or folder.is_symlink() or folder.stat().st_uid != os.getuid():
        folder = Path(tempfile.mkdtemp(prefix="jaxrep-"))
    LOG.warning("%s, so the cache is %s; JAXREP_CACHE names another folder", reason, folder)
    return folder


def cached(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array under ``name`` in the cache, or ``make()`` if it is missing or damaged.

    ``name`` must contain everything that the array depends on (versions, sizes). A file that cannot be read or written
    costs the time to make the array again, with a warning.
    """
    path = cache_dir() / name
    with _warned(path):
        if path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                return read_npy(io.BytesIO(content[32:]))
            LOG.warning("%s is damaged; making it again", path)
    array, body = make(), io.BytesIO()
    np.save(body, array, allow_pickle=False)
    digest = hashlib.sha256(body.getbuffer()).digest()
    with _warned(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.writelines((digest, body.getbuffer())))
    return array


@contextlib.contextmanager
def _warned(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        LOG.warning(
            "%s cannot be used (%s): what it holds is made again; JAXREP_CACHE names another folder",
            path,
            error.strerror,
        )


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file, and move it to ``path`` when it is complete."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def no_follow(name: str, flags: int) -> int:
    """Open a file for ``open(opener=...)``: a link in its place is refused, and not written through."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


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
