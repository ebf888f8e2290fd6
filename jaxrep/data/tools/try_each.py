"""One pass over all examples, in threads, in which what cannot be read is a result like any other."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import track

from jaxrep.data.bad_samples import kind
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.errors import BadSample, BadShard

T = TypeVar("T")
CHUNK = 256


def try_each(read: Callable[[int], T], count: int, title: str) -> Iterator[T | BadSample | BadShard]:
    """``read(0)``, ``read(1)`` … in order, or why it failed; with a bar of progress on stderr."""

    def one(index: int) -> T | BadSample | BadShard:
        try:
            return read(index)
        except (BadSample, BadShard) as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in track(range(0, count, CHUNK), title, console=Console(stderr=True)):
            yield from pool.map(one, range(start, min(start + CHUNK, count)))


def reason(error: BadSample | BadShard) -> str:
    """Why an example cannot be read, without what is its own."""
    return kind(error.reason) if isinstance(error, BadSample) else "the shard cannot be read"


def read_text(examples: Examples, index: int) -> tuple[str, ...]:
    """The texts of one example, read without its picture where that can be. Raises BadSample, BadShard."""
    found = examples.field(index, "text") if isinstance(examples, EncodedExamples) else examples[index]["text"]
    return (found,) if isinstance(found, str) else tuple(found)
