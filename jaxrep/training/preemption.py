"""Turn signals into a flag, so that a run saves its state before it stops.

With several processes JAX listens for SIGTERM, so that all of them save the same step (``hosts.stop_requested``); a
Ctrl-C is passed on to it.
"""

import contextlib
import os
import signal
import threading
from types import FrameType

from jaxrep import signals

STDERR = 2


class PreemptionHandler(contextlib.ExitStack):
    """Set ``requested`` at the first signal within ``with PreemptionHandler() as stop``.

    The signals are those of ``signals.SIGNALS``: Ctrl-C, SIGTERM, and others that shells and schedulers send. A further
    Ctrl-C raises KeyboardInterrupt; other signals, which schedulers repeat, change nothing more. The earlier
    handlers come back at the end. Outside of the main thread, where Python has no signals, nothing is handled.
    """

    def __init__(self, *, alone: bool = True) -> None:
        super().__init__()
        self.requested = signals.received() is not None  # its exception was dropped
        self._alone = alone

    def __enter__(self) -> "PreemptionHandler":
        if threading.current_thread() is threading.main_thread():
            numbers = [n for n in signals.handled() if self._alone or n != signal.SIGTERM]  # jax has SIGTERM
            self.enter_context(signals.handle_signals(self._handle, numbers))
        return self

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
