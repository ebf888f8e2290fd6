"""Read all examples of a source once, and count those that cannot be read."""

import contextlib
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from jaxrep.data._util.parallel import thread_map
from jaxrep.data.bad_samples import reason_kind
from jaxrep.data.loading.read_ahead import ahead_of
from jaxrep.data.source import Examples, Source, as_captions
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.errors import BadSample, BadShard
from jaxrep.spec_json import fingerprint

T = TypeVar("T")
AHEAD = 256
"""Examples that are read ahead."""
BLOCK = 64
"""Examples of which the ranges of remote files are read together."""


class Failures:
    """Count the examples that cannot be read, by reason, and keep the first ``kept`` messages."""

    def __init__(self, kept: int = 0):
        self.counts: Counter[str] = Counter()
        self.messages: list[str] = []
        self._kept = kept

    def add(self, error: Exception) -> None:
        """Add an example."""
        self.counts[reason_kind(error.reason) if isinstance(error, BadSample) else "the shard cannot be read"] += 1
        if len(self.messages) < self._kept:
            self.messages.append(str(error))


def read_all(
    read: Callable[[int], T],
    indices: Sequence[int],
    title: str,
    failures: Failures,
    counted: tuple[type[Exception], ...] = (BadSample, BadShard),
    threads: int = 0,
    ahead: Examples | None = None,
) -> Iterator[tuple[int, T]]:
    """Yield (index, ``read(index)``) in order, from threads; count the errors of types ``counted``, raise others.

    ``title``: of the progress bar on stderr; empty: there is none. ``ahead``: the examples, if ``read`` reads them
    whole: remote ones are then read ahead.
    """
    reader = ahead_of(ahead, np.asarray(indices, np.int64), BLOCK) if ahead else None

    def read_one(place: int) -> T:
        with reader.reading(place // BLOCK) if reader else contextlib.nullcontext():
            return read(indices[place])

    closing = contextlib.closing(reader) if reader else contextlib.nullcontext()
    with closing, contextlib.closing(thread_map(read_one, range(len(indices)), AHEAD, threads)) as futures:
        bar = track(futures, title, len(indices), console=Console(stderr=True)) if title else futures
        for index, future in zip(indices, bar, strict=True):
            try:
                yield index, future.result()
            except counted as error:
                failures.add(error)


def read_texts(examples: Examples, index: int) -> tuple[str, ...]:
    """Read the texts of one example, without its image if possible. Raises BadSample, BadShard."""
    text = examples.field(index, "text") if isinstance(examples, EncodedExamples) else examples[index]["text"]
    return as_captions(text)


@dataclasses.dataclass(frozen=True)
class _Key:
    """Identify a source, which has no hash of its own if it holds a mapping."""

    fingerprint: str
    source: Source = dataclasses.field(hash=False)


def opened(source: Source) -> Examples:
    """Open a source once per process."""
    return _open(_Key(fingerprint(source), source))


@functools.lru_cache(1)
def _open(key: _Key) -> Examples:
    return key.source.open()
