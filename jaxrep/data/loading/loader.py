"""Load examples into batches on the host; grain reads ahead in threads or in worker processes.

The only state is the position of the next example in the global order, and a report of bad samples. A batch is a pure
function of the position. So the order depends neither on workers nor on hosts, nor on batches read ahead when a run
ended.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import absl.flags
import grain
import numpy as np

from jaxrep.data._util.parallel import end_with_parent, go_to_background
from jaxrep.data.bad_samples import EMPTY_REPORT, BadSampleReport
from jaxrep.data.loading.read_ahead import ChunkRows, ReadAhead
from jaxrep.data.loading.reader import Reader
from jaxrep.data.loading.usage import Usage, UsageMeter, process_usage
from jaxrep.data.orders.base import Indices
from jaxrep.data.source import Examples
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.spec import replace

Transform = Callable[[dict[str, Any]], dict[str, Any]]
"""Change the columns of B examples (arrays, lists of strings) on the host. Worker processes need one that pickles."""

MAX_CHUNK_ROWS = 256
"""Largest number of rows per read: several threads read a large batch."""

MAX_BYTES_AHEAD = 4 * 2**30
"""Bytes of rows that are being read or wait for their batch, over all threads and worker processes."""

DEAD_WORKER = "terminated unexpectedly"
"""Part of grain's message about a worker process that has ended."""

BAD_SAMPLES, USAGE = "/bad_samples", "/usage"
"""Keys of the reports of a read, next to its arrays. No field has such a name."""


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Replace texts by ``name`` int32 [B,L] and ``name/valid`` bool [B,L]; several texts per example give [B,V,L]."""

    tokenizer: LoadedTokenizer
    """Texts -> (ids [B,L], valid [B,L])."""
    names: tuple[str, ...] = ("text",)
    single: tuple[str, ...] = ()
    """Those that are declared as one text per example."""

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any]:
        tokens = {}
        for name in self.names:
            texts = columns[name]
            if name in self.single and (several := next((row for row in texts if not isinstance(row, str)), None)):
                raise UsageError(
                    f"'{name}' holds several captions of an example ({len(several)}, as {several[0][:40]!r}), and one "
                    f"is trained on: draw one by SampleCaption(source=…, probabilities={{'{name}': 1}})"
                )
            views = () if isinstance(texts[0], str) else (len(texts[0]),)
            ids, valid = self.tokenizer([text for row in texts for text in row] if views else texts)
            shape = (len(texts), *views, ids.shape[-1])
            tokens |= {name: ids.reshape(shape), f"{name}/valid": valid.reshape(shape)}
        return columns | tokens


def to_arrays(columns: dict[str, Any], transform: Transform | None = None) -> dict[str, np.ndarray]:
    """Return the arrays among the transformed columns; strings are dropped."""
    columns = transform(columns) if transform else columns
    return {name: value for name, value in columns.items() if isinstance(value, np.ndarray)}


class Loader(Iterator[dict[str, np.ndarray]]):
    """Yield batches without end: dictionaries of arrays with the rows of this host, and ``position`` uint32 [B,2]."""

    def __init__(
        self,
        examples: Examples,
        order: Indices,
        batch_size: int,
        *,
        transform: Transform | None = None,
        position: int = 0,
        bad_samples: BadSampleReport = EMPTY_REPORT,
        seed: int = 0,
        max_bad_fraction: float = 0.0,
        skip_failed_shards: bool = False,
        single_host: bool = True,
        rows: slice = slice(None),
        workers: int = 0,
        threads: int = 2,
        background: bool = False,
    ):
        """Set up the reading, which starts with the first batch.

        Args:
            examples: the examples.
            order: their order.
            batch_size: the global batch size.
            transform: changes the columns of a batch.
            position: position of the first example (``loader.position`` of an earlier loader).
            bad_samples: report of the examples before it (``loader.bad_samples`` of an earlier loader).
            seed: seed of the randomness in reading.
            max_bad_fraction: the share of examples that may be unreadable.
            skip_failed_shards: whether whole shards may be unreadable.
            single_host: whether too many bad examples raise here; several hosts check the sum of their reports instead.
            rows: rows of a batch that this host reads (``mesh.local_rows``).
            workers: processes that read, each with ``threads`` threads; 0: threads of this process.
            threads: threads per process (see ``decoding_threads``); 0: the thread that asks for a batch.
            background: whether other threads have a core before the threads that read: those that feed a device. Where
                the devices are the cores themselves, batches would wait for the steps to leave one.
        """
        first, stop, stride = rows.indices(batch_size)
        if stop <= first or stride != 1:
            raise ValueError(f"rows {rows} of a batch of {batch_size} are not a range of rows")
        self.position, self.bad_samples, self.order, self.batch_size = position, bad_samples, order, batch_size
        self._max_bad_fraction, self._single_host = max_bad_fraction, single_host
        self._threads, self._workers = threads, workers
        reader = Reader(examples, order, seed, skip_failed_shards, single_host, set(bad_samples.skipped_shards))
        self._chunks = _Chunks(reader, transform, position, first, batch_size, stop - first, background=background)
        self._before, self._of_workers = process_usage(), np.zeros(len(Usage._fields), np.int64)

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch. Raises JaxrepError: more than ``max_bad_fraction`` of the examples so far were bad."""
        reads, count = self._reads
        parts = [_next_part(reads) for _ in range(count)]
        self.position += self.batch_size
        for part in parts:
            self.bad_samples += BadSampleReport.from_array(part.pop(BAD_SAMPLES))
            self._of_workers += part.pop(USAGE, 0)
        if self._single_host:  # several hosts stop at the same step, when a checkpoint is saved
            self.bad_samples.check(self._max_bad_fraction)
        # Arrays from a worker lie in shared memory, which must not outlive the worker.
        if count == 1 and not self._workers:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @functools.cached_property
    def _reads(self) -> tuple[grain.DatasetIterator, int]:
        """Start to read: the chunks in their order, and the number of chunks per batch."""
        chunks, rows = self._chunks, self._chunks.size
        row = chunks.read(self.position, chunks.row, 1)
        row_bytes = sum(values.nbytes for name, values in row.items() if name != BAD_SAMPLES)
        size, ahead = chunks_ahead(rows, row_bytes, self._threads, self._workers)
        meter = UsageMeter() if self._workers else None
        places = ChunkRows(self.position, chunks.row, self.batch_size, size, rows // size)
        self._ahead = ReadAhead(chunks.reader.examples, self.order, places, self._workers)
        chunks = dataclasses.replace(chunks, size=size, parts=rows // size, meter=meter, ahead=self._ahead)
        return _read_ahead(chunks, ahead, self._threads, self._workers), rows // size

    @property
    def usage(self) -> Usage:
        """Return what this process (with all that it does) and the worker processes used since the loader was made."""
        here = process_usage().since(self._before)
        return Usage(*(np.array(here, np.int64) + self._of_workers).tolist())

    def close(self) -> None:
        """Stop the threads and worker processes."""
        if "_reads" in vars(self):
            self._reads[0].close()
            self._ahead.close()


def chunks_ahead(rows: int, row_bytes: int, threads: int, workers: int = 0) -> tuple[int, int]:
    """Return the rows per chunk and the number of chunks to read ahead, within ``MAX_BYTES_AHEAD``.

    A thread has one chunk in work and one that waits, so that finished chunks do not block it. Where so many large
    chunks would not fit, chunks are smaller. The order of the rows does not depend on the chunks.

    Args:
        rows: rows of a batch; chunks divide them.
        row_bytes: bytes of a row.
        threads: threads per process.
        workers: worker processes; 0: none.
    """
    twice = 2 * max(threads, 1) * max(workers, 1)
    most = min(max(MAX_BYTES_AHEAD // (twice * max(row_bytes, 1)), 1), MAX_CHUNK_ROWS, rows)
    size = next(size for size in range(most, 0, -1) if rows % size == 0)
    return size, max(min(max(rows // size, twice), MAX_BYTES_AHEAD // max(size * row_bytes, 1)), 1)


def _read_ahead(chunks: "_Chunks", ahead: int, threads: int, workers: int) -> grain.DatasetIterator:
    """Read up to ``ahead`` chunks in advance; of several processes, each has its share, one half in shared memory."""
    share = max(ahead // (2 * workers), 1) if workers else ahead
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=share)
    reads = grain.MapDataset.source(chunks).to_iter_dataset(options)
    if workers:
        # grain reads absl's flags, which a program with another command line never parses
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=share)
        reads = reads.mp_prefetch(options, end_with_parent)
    return iter(reads)


def _next_part(reads: grain.DatasetIterator) -> dict[str, np.ndarray]:
    try:
        return dict(next(reads))
    except RuntimeError as error:
        if DEAD_WORKER not in str(error):
            raise
        if re.search(r"exit code [1-9]", str(error)):
            raise JaxrepError(
                "a worker process that reads data ended with an error, which is printed above. Each one imports the "
                "script that started it: below if __name__ == '__main__': lies what a script does"
            ) from error
        raise JaxrepError(
            f"a worker process that reads data was ended from outside, often for want of memory ({error.args[0]}): "
            "take fewer data.workers, or none, and run the same command to go on"
        ) from error


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """Give random access to chunks of ``size`` rows, ``parts`` per batch; grain reads them in parallel, in order.

    ``meter``: adds to a chunk what its worker process used.
    """

    reader: Reader
    transform: Transform | None
    position: int
    row: int
    batch_size: int
    size: int
    parts: int = 1
    meter: UsageMeter | None = None
    ahead: ReadAhead | None = None
    background: bool = False

    def __len__(self) -> int:
        return (2**62 - self.position) // self.batch_size * self.parts

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if self.background:
            go_to_background()
        step, part = divmod(int(index), self.parts)
        with self.ahead.reading(int(index)) if self.ahead else contextlib.nullcontext():
            arrays = self.read(self.position + step * self.batch_size, self.row + part * self.size, self.size)
        return arrays if self.meter is None else arrays | {USAGE: self.meter()}

    def read(self, batch: int, row: int, count: int) -> dict[str, np.ndarray]:
        """Read ``count`` rows from ``row`` on of the batch at position ``batch``."""
        positions = np.arange(batch + row, batch + row + count, dtype=np.uint64)
        halves = np.stack([positions >> np.uint64(32), positions & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
        columns, report = self.reader.read(positions)
        transform, tokens = self.transform, self.reader.order.text_length(batch)
        if tokens and isinstance(transform, Tokenize):
            transform = replace(transform, {"tokenizer.length": tokens})
        return to_arrays(columns, transform) | {"position": halves, BAD_SAMPLES: report.to_array()}
