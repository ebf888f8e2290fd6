"""Compile programs, or take them whole from the compilation cache."""

import contextlib
import hashlib
import logging
import pickle
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import serialize_executable

from jaxrep.storage import read_bytes, write_file

LOG = logging.getLogger(__name__)

T = TypeVar("T")

HIT = "/jax/compilation_cache/cache_hits"
"""Event of JAX: a program comes from JAX's own cache."""

FOREIGN = re.compile(r"custom_call @(?!lapack_)")
"""Calls of code outside of the program. JAX sets it up as it lowers, so a process that only loads would crash there."""


@contextlib.contextmanager
def _cache_hits() -> Iterator[list[str]]:
    """Yield a list that gets an item for each program that JAX takes from its own cache."""
    hits: list[str] = []

    def listen(event: str, **_: object) -> None:
        if event == HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


class Programs:
    """Compile programs. With an identity they come whole from the compilation cache, traced and lowered before.

    JAX's own cache knows a program by its text, so it saves only the compilation. This one knows it by name and
    identity: all that decides the text (code, recipe, shapes, devices, flags) must be part of the identity.
    """

    def __init__(
        self,
        folder: str = "",
        identity: str = "",
        devices: Sequence[Any] = (),
        lap: Callable[[str], object] = lambda part: None,
    ):
        """Set up.

        Args:
            folder: folder or URL of the cache. Whoever can write there can run code here.
            identity: what decides the text of the programs; if empty, nothing is kept.
            devices: devices of the programs, in the order of their mesh; all by default.
            lap: called after ``tracing`` and after ``compiling`` with these words.
        """
        self._folder, self._identity, self._devices, self._lap = folder.rstrip("/"), identity, devices, lap

    def get(
        self,
        name: str,
        trace: Callable[[], jax.stages.Traced],
        facts: Callable[[jax.stages.Traced], T],
        options: Mapping[str, Any] = {},
    ) -> tuple[jax.stages.Compiled, T]:
        """Return a program, compiled with the ``options`` of the compiler, and facts on it that are kept beside it."""
        place = f"{self._folder}/program-{hashlib.sha256(f'{name} {self._identity}'.encode()).hexdigest()}"
        found = self._read(place)
        if found is None:
            traced = trace()
            self._lap("tracing")
            lowered = traced.lower()
            with _cache_hits() as hits:
                program = lowered.compile(compiler_options=dict(options) or None)
            found = program, facts(traced)
            whole = not hits or jax.default_backend() != "cpu"  # on CPUs a loaded program is written without its code
            if whole and not FOREIGN.search(lowered.as_text()):
                self._write(place, *found)
        self._lap("compiling")
        return found

    def _read(self, place: str) -> tuple[jax.stages.Compiled, Any] | None:
        """Return a kept program, or None: there is none, it is damaged, or this machine cannot run it."""
        if not self._identity:
            return None
        try:
            content = read_bytes(place)
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                return None
            jax.jit(jnp.linalg.eigh).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))  # sets LAPACK up
            *program, facts = pickle.loads(zlib.decompress(content[32:]))
            return serialize_executable.deserialize_and_load(*program, execution_devices=self._devices or None), facts
        except Exception as error:  # of a store, JAX or XLA: the program is compiled anew
            if not isinstance(error.__cause__, FileNotFoundError):
                LOG.warning("a compiled program cannot be used, and is compiled again: %s", error)
            return None

    def _write(self, place: str, program: jax.stages.Compiled, facts: Any) -> None:
        if not self._identity:
            return
        try:
            content = zlib.compress(pickle.dumps((*serialize_executable.serialize(program), facts)), 1)
            write_file(place, hashlib.sha256(content).digest() + content)
        except Exception as error:  # a full disk, a program that XLA cannot write: the next start compiles again
            LOG.warning("a compiled program is not kept: %s", error)
