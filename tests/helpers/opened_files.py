"""Record the files and folders that Python opens."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

_record: list[str] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _record is not None and event in ("open", "os.listdir", "os.scandir"):
        _record.append(str(args[0]))


sys.addaudithook(_hook)  # for good: Python has no way to remove one


@contextlib.contextmanager
def opened_files() -> Iterator[list[str]]:
    """Return the list to which the path of each file or folder that is opened inside the context is added."""
    global _record
    _record = opened = []
    try:
        yield opened
    finally:
        _record = None
