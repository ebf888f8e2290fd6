"""Stop the program on signals, from its first line on.

A handler that raises is not enough: Python drops an exception that is raised within a callback or a finalizer. So each
signal is noted as well, and ``check`` raises it again between the stages of a command.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that end a process by default and that users, shells and schedulers send."""

_received: list[int] = []


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def handled() -> tuple[int, ...]:
    """Return the signals to handle: not those that this process was started to ignore, as by ``nohup``."""
    return tuple(number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


def received() -> int | None:
    """Return the first signal that was received, or None."""
    return _received[0] if _received else None


def check() -> None:
    """Raise Stopped if a signal was received, also if its exception was dropped. Call it between stages."""
    if _received:
        raise Stopped(_received[0])


@contextlib.contextmanager
def handle_signals(handle: Any, numbers: Iterable[int]) -> Iterator[None]:
    """Handle signals within, and put the earlier handlers back at the end. Call it in the main thread."""
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            # A handler that was not installed from Python is None, and Python cannot put it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise Stopped in the main thread on a signal; outside of the main thread, handle nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: object) -> None:
        _received.append(number)
        raise Stopped(number)

    def unraisable(dropped: "sys.UnraisableHookArgs") -> None:
        if dropped.exc_type is not Stopped:
            hook(dropped)

    _received.clear()
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        with handle_signals(handle, handled()):
            yield
    finally:
        sys.unraisablehook = hook
        _received.clear()
