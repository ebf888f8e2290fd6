"""Load examples into batches on the host; grain reads ahead in threads or in worker processes.

The only state is the position of the next example in the global order, and a report of bad samples. A batch is a pure
function of the position. So the order depends neither on workers nor on hosts, nor on batches read ahead when a run
ended.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import absl.flags
import grain
import numpy as np

from jaxrep.data._util.parallel import end_with_parent
from jaxrep.data.bad_samples import EMPTY_REPORT, BadSampleReport
from jaxrep.data.loading.reader import Reader
from jaxrep.data.orders.base import Indices
from jaxrep.data.source import Examples
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.errors import JaxrepError
from jaxrep.spec import replace

Transform = Callable[[dict[str, Any]], dict[str, Any]]
"""Change the columns of B examples (arrays, lists of strings) on the host. Worker processes need one that pickles."""

MAX_CHUNK_ROWS = 256
"""Largest number of rows per read: several threads read a large batch."""

DEAD_WORKER = "terminated unexpectedly"
"""Part of grain's message about a worker process that has ended."""

BAD_SAMPLES = "/bad_samples"
"""Key of the report of a read, next to its arrays. No field has such a name."""


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Replace texts by ``name`` int32 [B,L] and ``name/valid`` bool [B,L]; several texts per example give [B,V,L]."""

    tokenizer: LoadedTokenizer
    """Texts -> (ids [B,L], valid [B,L])."""
    names: tuple[str, ...] = ("text",)

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any]:
        tokens = {}
        for name in self.names:
            texts = columns[name]
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
    ):
        """Start to read ahead.

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
            threads: threads per process.
        """
        first, stop, stride = rows.indices(batch_size)
        if stop <= first or stride != 1:
            raise ValueError(f"rows {rows} of a batch of {batch_size} are not a range of rows")
        self.position, self.bad_samples, self.order, self.batch_size = position, bad_samples, order, batch_size
        self._max_bad_fraction, self._single_host = max_bad_fraction, single_host
        chunk = next(size for size in range(min(MAX_CHUNK_ROWS, stop - first), 0, -1) if (stop - first) % size == 0)
        self._parts = (stop - first) // chunk
        reader = Reader(examples, order, seed, skip_failed_shards, single_host, set(bad_samples.skipped_shards))
        chunks = _Chunks(reader, transform, position, first, batch_size, chunk, self._parts)
        # Arrays from a worker lie in shared memory, which must not outlive the worker.
        self._copies = workers > 0 or self._parts > 1
        self._reads = _read_ahead(chunks, max(self._parts, 2 * threads), threads, workers)

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch. Raises JaxrepError: more than ``max_bad_fraction`` of the examples so far were bad."""
        parts = [self._part() for _ in range(self._parts)]
        self.position += self.batch_size
        for part in parts:
            self.bad_samples += BadSampleReport.from_array(part.pop(BAD_SAMPLES))
        if self._single_host:  # several hosts stop at the same step, when a checkpoint is saved
            self.bad_samples.check(self._max_bad_fraction)
        if not self._copies:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _part(self) -> dict[str, np.ndarray]:
        try:
            return dict(next(self._reads))
        except RuntimeError as error:
            if DEAD_WORKER not in str(error):
                raise
            raise JaxrepError(
                f"a worker process that reads data was ended from outside, often for want of memory ({error.args[0]}): "
                "take fewer data.workers, or none, and run the same command to go on"
            ) from error

    def close(self) -> None:
        """Stop the threads and worker processes."""
        self._reads.close()


def _read_ahead(chunks: "_Chunks", ahead: int, threads: int, workers: int) -> grain.DatasetIterator:
    """Read up to ``ahead`` chunks in advance, so that finished chunks that wait do not block a thread."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    reads = grain.MapDataset.source(chunks).to_iter_dataset(options)
    if workers:
        # grain reads absl's flags, which a program with another command line never parses
        if not absl.flags.FLAGS.is_parsed():
            absl.flags.FLAGS.mark_as_parsed()
        per_worker = -(-ahead // workers)
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=per_worker)
        reads = reads.mp_prefetch(options, end_with_parent)
    return iter(reads)


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """Give random access to chunks of ``size`` rows, ``parts`` per batch; grain reads them in parallel, in order."""

    reader: Reader
    transform: Transform | None
    position: int
    row: int
    batch_size: int
    size: int
    parts: int

    def __len__(self) -> int:
        return (2**62 - self.position) // self.batch_size * self.parts

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        step, part = divmod(int(index), self.parts)
        batch = self.position + step * self.batch_size
        start = batch + self.row + part * self.size
        positions = np.arange(start, start + self.size, dtype=np.uint64)
        halves = np.stack([positions >> np.uint64(32), positions & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
        columns, report = self.reader.read(positions)
        transform, tokens = self.transform, self.reader.order.text_length(batch)
        if tokens and isinstance(transform, Tokenize):
            transform = replace(transform, {"tokenizer.length": tokens})
        return to_arrays(columns, transform) | {"position": halves, BAD_SAMPLES: report.to_array()}
