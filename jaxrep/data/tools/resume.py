"""Resume interrupted work: the plan of the work lies in its folder, and another plan is refused."""

import json
import os
from typing import Any

from jaxrep.errors import UsageError
from jaxrep.storage import filesystem, is_remote, read_bytes, write_file


def write_or_compare(path: str, plan: dict[str, Any], folder: str, work: str) -> None:
    """Write a plan, or compare it with the one that was written. Raises UsageError: they differ."""
    content = json.dumps(plan, indent=1).encode()
    if not exists(path):
        write_file(path, content)
    elif read_bytes(path) != content:
        raise UsageError(f"{folder} has another {work}, described in {path}: name another folder")


def exists(path: str) -> bool:
    """Return whether there is a file at a path or URL."""
    if not is_remote(path):
        return os.path.exists(path)
    files, name = filesystem(path)
    files.invalidate_cache(name)
    return files.exists(name)
