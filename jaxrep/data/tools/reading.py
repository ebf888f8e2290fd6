"""Read all examples of a source once, and count those that cannot be read."""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from jaxrep.data.bad_samples import reason_kind
from jaxrep.data.source import Examples, Source
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.errors import BadSample, BadShard

T = TypeVar("T")
CHUNK = 256


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


def read_all(read: Callable[[int], T], count: int, title: str, failures: Failures) -> Iterator[tuple[int, T]]:
    """Yield (index, ``read(index)``) in order, from threads, with a progress bar on stderr; count what fails."""
    for start in track(range(0, count, CHUNK), title, console=Console(stderr=True)):
        yield from read_some(read, range(start, min(start + CHUNK, count)), os.cpu_count(), failures)


def read_some(
    read: Callable[[int], T],
    indices: Sequence[int],
    threads: int | None,
    failures: Failures,
    counted: tuple[type[Exception], ...] = (BadSample, BadShard),
) -> Iterator[tuple[int, T]]:
    """Yield (index, ``read(index)``) in order, from threads; count the errors of types ``counted``, raise others."""
    with ThreadPoolExecutor(threads) as pool:
        for index, future in [(index, pool.submit(read, index)) for index in indices]:
            try:
                result = future.result()
            except counted as error:
                failures.add(error)
            else:
                yield index, result


def read_texts(examples: Examples, index: int) -> tuple[str, ...]:
    """Read the texts of one example, without its image if possible. Raises BadSample, BadShard."""
    text = examples.field(index, "text") if isinstance(examples, EncodedExamples) else examples[index]["text"]
    return (text,) if isinstance(text, str) else tuple(text)


@functools.lru_cache(1)
def opened(source: Source) -> Examples:
    """Open a source once per process."""
    return source.open()
