"""Say where the time of a run goes: seconds from launch to the first step by part, and shares of the whole."""

import os
import time
from collections.abc import Callable
from pathlib import Path

STEPS, WAIT, EVALUATIONS, CHECKPOINTS = "steps", "waiting for data", "evaluations", "checkpoints"
"""Parts of the time after the start."""


class Stopwatch:
    """Divide the time since a launch into parts. Each lap is the time since the lap before it, so parts have no gaps.

    The parts of the start are ``imports``, ``data`` (sources, vocabulary, the first batch), ``tracing``, ``compiling``
    (or reading compiled programs), ``restore`` (the checkpoint, or initial values), and ``other runs`` that were
    trained first.
    """

    def __init__(self, launched: float | None = None, when_ready: Callable[[], object] = lambda: None):
        """Start.

        Args:
            launched: seconds on the clock of ``time.monotonic``; by default now.
            when_ready: is called when all is compiled.
        """
        self._last = time.monotonic() if launched is None else launched
        self.when_ready = when_ready
        self.start: dict[str, float] = {}
        """Seconds by part until the first step."""
        self.rest: dict[str, float] = {}
        """Seconds by part since then; empty before the first step."""
        self._parts = self.start

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part."""
        now = time.monotonic()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def first_step(self) -> str:
        """End the start; return a sentence that says its seconds by part."""
        self.rest[STEPS] = 0.0
        self._parts = self.rest
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.start.items())
        return f"the first step begins {sum(self.start.values()):.1f} s after the launch: {parts}"

    def summary(self) -> str:
        """Return a sentence that says which share of the time since the launch went into steps and into other parts."""
        seconds = {STEPS: self.rest[STEPS], "start-up": sum(self.start.values()), **self.rest}
        total = max(sum(seconds.values()), 1e-9)
        shares = ", ".join(f"{part} {taken / total:.1%}" for part, taken in seconds.items())
        return f"of {total:.1f} s since the launch: {shares}"


def launch_of_process() -> float:
    """Return when this process was launched, in seconds on the clock of ``time.monotonic``; now where that is unknown.

    A process that replaces itself (``os.execv``) was launched when the first one was.
    """
    try:
        words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()  # a name may hold spaces
        since_boot = int(words[19]) / os.sysconf("SC_CLK_TCK")  # field 22 of proc(5)
        return time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)
    except (OSError, ValueError, IndexError, AttributeError):  # no Linux
        return time.monotonic()
