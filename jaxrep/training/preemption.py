"""Ctrl-C and SIGTERM become a flag, so that a run saves what it has before it leaves.

With several processes jax listens for SIGTERM, so that all of them hear of it and save the same step
(``hosts.stop_requested``); a Ctrl-C is handed on to it.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STDERR = 2


class PreemptionHandler:
    """``with PreemptionHandler() as stop``: within, the first SIGINT or SIGTERM sets ``stop.requested`` and nothing else.

    A further Ctrl-C leaves at once, by KeyboardInterrupt; a further SIGTERM (schedulers repeat it) changes nothing.
    The handlers from before come back at the end. Outside of the main thread, where Python has no signals, it is inert.
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
        """As a signal does, from within: this process asks all to end."""
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
