"""Adapt orbax: paths that it takes for patterns, messages of its threads, and commits that wait for an upload."""

import contextlib
import logging
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint._src.futures import future

from jaxrep.runs.remote import RemoteMirror


@contextlib.contextmanager
def literal_path(folder: Path) -> Iterator[Path]:
    """Yield a path of the folder for orbax, which takes a whole path for a pattern: a link where it has such signs."""
    if re.fullmatch(r"[\w./ +=,@-]*", str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="jaxrep-") as links:
        link = Path(links, folder.name)
        link.symlink_to(folder, target_is_directory=True)
        yield link


def silence_orbax() -> None:
    """Keep what orbax says of each file and of errors, which it raises too, from the terminal.

    Reads and writes that a failed call leaves behind end later in tensorstore's threads, and each prints a traceback.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    hook = sys.unraisablehook

    def without_left_behind(dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.object is not None or str(dropped.exc_value) != "Event loop is closed":
            hook(dropped)

    sys.unraisablehook = without_left_behind


def end_waiting_threads() -> None:
    """End orbax's threads that wait, for ten minutes, for a save that failed before it had a folder."""
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")  # what they would have run
    for thread in threading.enumerate():
        if isinstance(thread, future._SignalingThread):
            thread._cancelled = True
            with contextlib.suppress(Exception):  # the signal was sent meanwhile
                future.set_signals(thread._receive_signals, operation_id=thread._operation_id)


class AfterUpload(ocp.JsonCheckpointHandler):
    """Commit a checkpoint after the metrics of its step are uploaded."""

    def __init__(self, spool: RemoteMirror):
        super().__init__()
        self._spool = spool

    async def async_save(self, *args: Any, **named: Any) -> Any:
        self._spool.push()
        return [*(await super().async_save(*args, **named) or ()), self._spool.last]  # orbax awaits all of them
