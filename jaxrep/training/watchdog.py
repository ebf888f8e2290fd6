"""Print the stacks of all threads if no step ends for a declared time.

A collective that one process never enters hangs all processes without a message; the stacks show where.
"""

import faulthandler
import sys
import threading
import time


class Watchdog:
    """Watch for steps that do not end within ``seconds`` (0: never); call ``step_ended`` after each step."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._last: tuple[int, float] | None = None  # the first step compiles, so its time says nothing
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if seconds:
            self._thread.start()

    def step_ended(self, step: int) -> None:
        self._last = step, time.monotonic()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        told = -1
        while not self._closing.wait(min(self._seconds / 4, 5.0)):
            if self._last is None:
                continue
            step, when = self._last
            if step != told and time.monotonic() - when > self._seconds:
                told = step
                print(
                    f"jaxrep: no step has ended for {self._seconds:g} s, since step {step}; what each thread is at:",
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(file=sys.stderr.fileno(), all_threads=True)
