"""Measure how many examples per second a source gives: read, decoded, tokenized, and as batches of the loader.

The first three stages are measured alone in one thread. The loader is that of training, with as many threads; it runs
all stages in parallel. If it is faster than a training step, training does not wait for data. The processor time and
the reads of files per example are reported as well: if the loader uses fewer cores than it has threads, other processes
use the machine, or the files are slow.
"""

import argparse
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrep.commands.data import MAX_WORKERS, tool_parser
from jaxrep.commands.models import number
from jaxrep.data._util.parallel import decoding_threads, usable_cores
from jaxrep.data.loading.loader import Loader, Tokenize
from jaxrep.data.loading.usage import Usage, process_usage
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.orders.windows import Windowed
from jaxrep.data.source import Examples
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tokenizers.base import Bytes, LoadedTokenizer
from jaxrep.data.tokenizers.subwords import TokenizerFile
from jaxrep.data.tools.reading import read_texts
from jaxrep.errors import BadSample, JaxrepError
from jaxrep.storage import is_remote

ORDERS = {"shuffle": Shuffle(), "windowed": Windowed()}
"""Orders of the loader by name."""

IN_MEMORY = 256
"""Number of examples that are decoded and tokenized repeatedly, so that reading them takes no time."""


def main(args: list[str]) -> int:
    """Run ``jaxrep data bench SOURCE [--batch-size N] [--threads N] [--workers N] [--need N] [--json] …``."""
    parser = tool_parser("bench", __doc__)
    add = parser.add_argument
    add("--batch-size", type=number(1), default=256, metavar="N", help="examples per batch (default: 256)")
    threads, workers = number(1, MAX_WORKERS), number(0, MAX_WORKERS)
    per_core = "threads of each process of the loader (default: one per usable core, as in training)"
    add("--threads", type=threads, default=0, metavar="N", help=per_core)
    add("--workers", type=workers, default=0, metavar="N", help="processes of the loader (default: none)")
    orders = "order of the loader (default: windowed for remote files, as shuffle would open a shard per example)"
    add("--order", choices=ORDERS, help=orders)
    add("--need", type=number(1), metavar="N", help="tell what so many examples per second would take")
    add("--seconds", type=number(0.001, 86_400.0), default=5.0, metavar="S", help="time per stage (default: 5)")
    add("--tokenizer", metavar="FILE", help="a tokenizer.json (default: 77 bytes)")
    add("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(args)
    source = parse_source(given.source)
    examples, tokenizer = source.open(), load_tokenizer(given.tokenizer)
    rates = measure_stages(examples, tokenizer, given.seconds)
    rates["loader"] = measure_loader(examples, Tokenize(tokenizer) if "text" in source.fields() else None, given)
    if given.json:
        speeds = {name: round(rate.per_second, 1) for name, rate in rates.items()}
        print(json.dumps(speeds | rates["loader"].costs(given.need), indent=1))
    else:
        print("\n".join(f"{name:<9} {rate}" for name, rate in rates.items()))
        print(describe(rates["loader"], given))
    return 0


def describe(rate: "Rate", given: argparse.Namespace) -> str:
    """Return sentences on the loader: its threads, and what the rate that is needed would take."""
    threads, costs = decoding_threads(given.threads, given.workers), rate.costs(given.need)
    processes = f" in each of {given.workers} processes" if given.workers else ""
    text = (
        f"the loader has {threads} thread{'s' * (threads != 1)}{processes}, of {usable_cores()} usable cores; "
        f"an example takes {costs['requests_per_example']:.3g} requests and {costs['bytes_per_example']:,.0f} bytes"
    )
    if given.need:
        needed = costs["needed"]
        text += (
            f"\n{given.need:,} examples/s are {given.need / rate.per_second:.3g} times as many. At the same cost they "
            f"take {needed['cores']:.1f} cores, {needed['requests_per_second']:,.0f} requests/s and "
            f"{needed['bytes_per_second'] / 1e6:,.1f} MB/s"
        )
    return text


class Rate(NamedTuple):
    """Hold the speed of a stage and its cost."""

    per_second: float
    cores: float  # processor time of this process and its workers per second
    requests: float  # reads of files per second
    bytes: float  # bytes of these per second

    def __str__(self) -> str:
        micros = 1e6 * self.cores / self.per_second
        return f"{self.per_second:>12,.1f} examples/s  {micros:>8,.0f} us of CPU time each  {self.cores:.1f} cores"

    def costs(self, need: int | None) -> dict[str, Any]:
        """Return the costs of an example, and of ``need`` examples per second."""
        names = {"cores": self.cores, "requests_per_second": self.requests, "bytes_per_second": self.bytes}
        costs = {
            "cores": round(self.cores, 2),
            "cpu_microseconds_per_example": round(1e6 * self.cores / self.per_second, 1),
            "requests_per_example": round(self.requests / self.per_second, 5),
            "bytes_per_example": round(self.bytes / self.per_second, 1),
        }
        needed = {name: round(value / self.per_second * (need or 0), 2) for name, value in names.items()}
        return costs | ({"needed": {"examples_per_second": need} | needed} if need else {})

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


def measure(
    work: Callable[[Any], Any], items: Sequence[Any], seconds: float, usage: Callable[[], Usage] = process_usage
) -> Rate:
    """Repeat work on items for some seconds. An item that cannot be read counts as well."""
    start, before = time.perf_counter(), usage()
    for done, item in enumerate(itertools.cycle(items), 1):
        with contextlib.suppress(BadSample):
            work(item)
        if (elapsed := time.perf_counter() - start) >= seconds:
            used = usage().since(before)
            return Rate(done / elapsed, used.cpu_ns / 1e9 / elapsed, used.requests / elapsed, used.bytes / elapsed)
    raise ValueError("there is nothing to measure")


def measure_loader(examples: Examples, transform: Tokenize | None, given: argparse.Namespace) -> Rate:
    """Measure batches of the loader, after a fifth of the time has passed."""
    order = ORDERS[given.order or ("windowed" if is_remote(given.source) else "shuffle")]
    batches = Loader(
        examples,
        examples.ordered_indices(order, given.batch_size),
        given.batch_size,
        transform=transform,
        workers=given.workers,
        threads=decoding_threads(given.threads, given.workers),
        max_bad_fraction=1.0,
    )
    with contextlib.closing(batches):
        measure(lambda _: next(batches), [None], given.seconds / 5)
        rate = measure(lambda _: next(batches), [None], given.seconds, lambda: batches.usage)
        return rate.times(given.batch_size)
