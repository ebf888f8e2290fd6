"""Decide whether the code that came with a run may be executed.

A run directory is data, except for its copy of the experiment file, which a recipe with parts of that file needs. The
copy may be executed if it is a user's own: the same bytes came with jaxrep, were executed by this process, or have a
record in a folder of the user, outside of any run. Training a file, and ``--trust``, make that record.
"""

import hashlib
import os
import sys
from pathlib import Path

from jaxrep.experiment_files import bundled_folder

PLACE = "jaxrep/experiments"


def record_folder() -> Path | None:
    """Return ``$XDG_STATE_HOME/jaxrep/experiments``, or that below ``~/.local/state``; None for a user without home."""
    for place in (os.environ.get("XDG_STATE_HOME", ""), os.path.expanduser("~/.local/state")):
        if os.path.isabs(place):
            return Path(place) / PLACE
    return None


def record(file: Path) -> str:
    """Record that this user trusts the code of a file. Return the reason why it cannot be recorded; else empty."""
    folder, original = record_folder(), os.fsencode(file.resolve())
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            (folder / _digest(file)).write_bytes(original)
            return ""
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror}): set XDG_STATE_HOME to a folder of your own"
    return "this user has no home directory: set XDG_STATE_HOME to a folder of your own"


def own_file(copy: Path) -> Path | None:
    """Return the user's own file with the bytes of a copy: the original, so that it finds its neighbors, or the copy.

    None: this user has no such file.
    """
    content, folder = copy.read_bytes(), record_folder()
    mark = folder / _digest(copy) if folder else None
    recorded = mark is not None and mark.is_file()
    loaded = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    originals = [
        *bundled_folder().rglob(copy.name),
        *(Path(file) for file in loaded if os.path.basename(file) == copy.name),
        *([Path(os.fsdecode(mark.read_bytes()))] if mark and recorded else []),
    ]
    same = (file for file in originals if file.is_file() and file.read_bytes() == content)
    return next(same, copy if recorded else None)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
