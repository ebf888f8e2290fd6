"""Turn Ctrl-C and SIGTERM into a flag, so that a run saves its state before it stops.

With several processes JAX listens for SIGTERM, so that all of them save the same step (``hosts.stop_requested``); a
Ctrl-C is passed on to it.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STDERR = 2


class PreemptionHandler:
    """Set ``requested`` at the first SIGINT or SIGTERM within ``with PreemptionHandler() as stop``.

    A further Ctrl-C raises KeyboardInterrupt; a further SIGTERM, which schedulers repeat, changes nothing. The earlier
    handlers come back at the end. Outside of the main thread, where Python has no signals, nothing is handled.
    """

    def __init__(self, *, alone: bool = True) -> None:
        self.requested = False
        self._alone = alone
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "PreemptionHandler":
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM) if self._alone else (signal.SIGINT,)
            self._before = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            # A handler that was not installed from Python is None, and Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def request(self) -> None:
        """Ask all processes to stop, as a signal does."""
        if not self._alone and not self.requested:
            os.kill(os.getpid(), signal.SIGTERM)
        self.requested = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        if not self.requested:
            # Not print: the handler may run in the middle of one, and its buffer does not take a second.
            name = signal.Signals(number).name
            os.write(STDERR, f"\n{name}: finishing this step, then saving; Ctrl-C leaves at once, unsaved\n".encode())
        self.request()
