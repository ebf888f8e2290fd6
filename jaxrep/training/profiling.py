"""Trace a few steps of a run, on the host and on the devices, for xprof and Perfetto."""

from pathlib import Path

import jax

from jaxrep import hosts
from jaxrep.recipe import Profile


class Profiler:
    """Trace the declared steps into ``folder``; call ``step_ended`` after each step."""

    def __init__(self, spec: Profile, folder: Path):
        self._spec, self._folder = spec, folder
        self._tracing = False

    def step_ended(self, done: int) -> None:
        """Count a step; ``done`` is the number of steps of this process."""
        if self._spec.steps and done == self._spec.after:
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=hosts.is_main())
            self._tracing = True
        elif self._tracing and done == self._spec.after + self._spec.steps:
            self.close()

    def close(self) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
        self._tracing = False
