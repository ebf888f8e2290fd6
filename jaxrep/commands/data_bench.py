"""Measure how many examples per second a source gives: read, decoded, tokenized, and as batches of the loader.

The first three stages are measured alone in one thread; the loader runs all of them in parallel. If the loader is
faster than a training step, training does not wait for data. The processor time per example is reported as well: if the
loader uses fewer cores than it has threads, other processes use the machine, or the files are slow.
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

from jaxrep.commands.data import MAX_WORKERS, tool_parser
from jaxrep.commands.models import number
from jaxrep.data.loading.loader import Loader, Tokenize
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.source import Examples
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tokenizers.base import Bytes, LoadedTokenizer
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.data.tools.reading import read_texts
from jaxrep.errors import BadSample, JaxrepError

IN_MEMORY = 256
"""Number of examples that are decoded and tokenized repeatedly, so that reading them takes no time."""


def main(args: list[str]) -> int:
    """Run ``jaxrep data bench SOURCE [--batch-size N] [--threads N] [--workers N] [--seconds S] [--json]``."""
    parser = tool_parser("bench", __doc__)
    add = parser.add_argument
    add("--batch-size", type=number(1), default=256, metavar="N", help="examples per batch (default: 256)")
    threads = number(1, MAX_WORKERS)
    add("--threads", type=threads, default=os.cpu_count(), metavar="N", help="loader threads (default: one per core)")
    add(
        "--workers", type=number(0, MAX_WORKERS), default=0, metavar="N", help="processes of the loader (default: none)"
    )
    add("--seconds", type=number(0.001, 86_400.0), default=5.0, metavar="S", help="time per stage (default: 5)")
    add("--tokenizer", metavar="FILE", help="a tokenizer.json (default: 77 bytes)")
    add("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(args)
    source = parse_source(given.source)
    examples, tokenizer = source.open(), load_tokenizer(given.tokenizer)
    rates = measure_stages(examples, tokenizer, given.seconds)
    rates["loader"] = measure_loader(examples, Tokenize(tokenizer) if "text" in source.fields() else None, given)
    if given.json:
        print(json.dumps({name: round(rate.per_second, 1) for name, rate in rates.items()}, indent=1))
    else:
        print("\n".join(f"{name:<9} {rate}" for name, rate in rates.items()))
    return 0


class Rate(NamedTuple):
    """Hold the speed of a stage and its cost."""

    per_second: float
    cores: float  # processor time of this process per second

    def __str__(self) -> str:
        micros = 1e6 * self.cores / self.per_second
        return f"{self.per_second:>12,.1f} examples/s  {micros:>8,.0f} us of CPU time each  {self.cores:.1f} cores"

    def times(self, examples: int) -> "Rate":
        """Return the rate of examples where each item has this many."""
        return self._replace(per_second=self.per_second * examples)


def load_tokenizer(path: str | None) -> LoadedTokenizer:
    """Load the tokenizer of a file, or the bytes of a text."""
    return TokenizerFile(path=path, length=77, entries=2**31 - 1).load() if path else Bytes(length=77).load()


def measure_stages(examples: Examples, tokenizer: LoadedTokenizer, seconds: float) -> dict[str, Rate]:
    """Measure each stage alone, in one thread, on random examples."""
    indices = Shuffle().indices(examples, 1)(np.arange(10_000, dtype=np.uint64)).tolist()
    read = examples.contents if isinstance(examples, EncodedExamples) else examples.__getitem__
    rates = {"read": measure(read, indices, seconds)}
    good = list(itertools.islice(readable(examples, indices), IN_MEMORY))
    if not good:
        raise JaxrepError(f"none of {len(indices)} random examples can be read")
    if isinstance(examples, EncodedExamples):
        contents = [(index, examples.contents(index)) for index in good]
        rates["decode"] = measure(lambda pair: examples.decoded(*pair), contents, seconds)
    if "text" in examples[good[0]]:
        texts = [text for index in good for text in read_texts(examples, index)[:1]]
        rates["tokenize"] = measure(tokenizer, [texts], seconds).times(len(texts))
    return rates


def readable(examples: Examples, indices: Sequence[int]) -> Iterator[int]:
    """Yield the indices of examples that can be read."""
    for index in indices:
        with contextlib.suppress(BadSample):
            examples[index]
            yield index


def measure(work: Callable[[Any], Any], items: Sequence[Any], seconds: float) -> Rate:
    """Repeat work on items for some seconds. An item that cannot be read counts as well."""
    start, used = time.perf_counter(), time.process_time()
    for done, item in enumerate(itertools.cycle(items), 1):
        with contextlib.suppress(BadSample):
            work(item)
        if (elapsed := time.perf_counter() - start) >= seconds:
            return Rate(done / elapsed, (time.process_time() - used) / elapsed)
    raise ValueError("there is nothing to measure")


def measure_loader(examples: Examples, transform: Tokenize | None, given: argparse.Namespace) -> Rate:
    """Measure batches of the loader after the first one. The processor time of worker processes is not counted."""
    batches = Loader(
        examples,
        Shuffle().indices(examples, given.batch_size),
        given.batch_size,
        transform=transform,
        workers=given.workers,
        threads=given.threads,
        max_bad_fraction=1.0,
    )
    with contextlib.closing(batches):
        next(batches)
        return measure(lambda _: next(batches), [None], given.seconds).times(given.batch_size)
