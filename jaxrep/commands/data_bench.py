"""Measures how many examples a second a source gives: read, decoded, tokenized, and as batches of the loader.

The first three stages are measured in one thread, each alone; the loader does all of them in parallel. Where the loader
gives more than a step takes, training does not wait for data. Beside the clock stands the processor time of an example:
where the loader uses fewer cores than it has threads, others use the machine, or the files are slow.
"""

import argparse
import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrep.data.loading.loader import Loader, Tokenize
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.source import Examples
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tokenizers.base import Bytes, LoadedTokenizer
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.data.tools.try_each import read_text
from jaxrep.errors import BadSample, JaxrepError, UsageError

HELD = 256
"""Examples that are decoded and tokenized over and over, so that reading them takes no time."""


def main(args: list[str]) -> int:
    """``jaxrep data bench SOURCE [--batch-size N] [--threads N] [--workers N] [--seconds S] [--json]``"""
    parser = argparse.ArgumentParser(prog="jaxrep data bench", description=__doc__)
    parser.add_argument("source", metavar="SOURCE", help="what to read (see jaxrep data --help)")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="(default: 256)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="(default: one a core)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes of the loader (default: none)")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each stage (default: 5)")
    parser.add_argument("--tokenizer", metavar="FILE", help="a tokenizer.json (default: 77 bytes)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(args)
    if given.batch_size < 1 or given.seconds <= 0:
        raise UsageError("--batch-size is at least 1 and --seconds above 0")
    source = parse_source(given.source)
    examples, tokenizer = source.open(), load(given.tokenizer)
    rates = stages(examples, tokenizer, given.seconds)
    rates["loader"] = loader(examples, Tokenize(tokenizer) if "text" in source.fields() else None, given)
    if given.json:
        print(json.dumps({name: round(rate.per_second, 1) for name, rate in rates.items()}, indent=1))
    else:
        print("\n".join(f"{name:<9} {rate}" for name, rate in rates.items()))
    return 0


class Rate(NamedTuple):
    """How fast examples come, and what one costs."""

    per_second: float
    cores: float  # processor time of this process over the clock's

    def __str__(self) -> str:
        micros = 1e6 * self.cores / self.per_second
        return (
            f"{self.per_second:>12,.1f} examples/s  {micros:>8,.0f} us of processor time each  {self.cores:.1f} cores"
        )

    def times(self, examples: int) -> "Rate":
        """Where each item is so many examples."""
        return self._replace(per_second=self.per_second * examples)


def load(path: str | None) -> LoadedTokenizer:
    """The tokenizer of a file, or the bytes of a text."""
    return TokenizerFile(path=path, length=77, entries=2**31 - 1).load() if path else Bytes(length=77).load()


def stages(examples: Examples, tokenizer: LoadedTokenizer, seconds: float) -> dict[str, Rate]:
    """Examples a second of each stage alone, in one thread, at random places."""
    order = Shuffle().over(examples, 1)
    places = order(np.arange(10_000, dtype=np.uint64)).tolist()
    read = examples.contents if isinstance(examples, EncodedExamples) else examples.__getitem__
    found = {"read": rate(read, places, seconds)}
    good = list(itertools.islice(readable(examples, places), HELD))
    if not good:
        raise JaxrepError(f"none of {len(places)} examples, taken at random, can be read")
    if isinstance(examples, EncodedExamples):
        held = [(index, examples.contents(index)) for index in good]
        found["decode"] = rate(lambda pair: examples.decoded(*pair), held, seconds)
    if "text" in examples[good[0]]:
        texts = [text for index in good for text in read_text(examples, index)[:1]]
        found["tokenize"] = rate(tokenizer, [texts], seconds).times(len(texts))
    return found


def readable(examples: Examples, places: Sequence[int]) -> Iterator[int]:
    """The places of examples that can be read."""
    for index in places:
        with contextlib.suppress(BadSample):
            examples[index]
            yield index


def rate(work: Callable[[Any], Any], items: Sequence[Any], seconds: float) -> Rate:
    """Of items, over and over. One that cannot be read takes its time as well."""
    start, used = time.perf_counter(), time.process_time()
    for done, item in enumerate(itertools.cycle(items), 1):
        with contextlib.suppress(BadSample):
            work(item)
        if (taken := time.perf_counter() - start) >= seconds:
            return Rate(done / taken, (time.process_time() - used) / taken)
    raise ValueError("there is nothing to measure")


def loader(examples: Examples, transform: Tokenize | None, given: argparse.Namespace) -> Rate:
    """Of examples in batches, the first of which is not timed. What worker processes use is not counted."""
    batches = Loader(
        examples,
        Shuffle().over(examples, given.batch_size),
        given.batch_size,
        transform=transform,
        workers=given.workers,
        threads=given.threads,
        max_bad_fraction=1.0,
    )
    try:
        next(batches)
        return rate(lambda _: next(batches), [None], given.seconds).times(given.batch_size)
    finally:
        batches.close()
