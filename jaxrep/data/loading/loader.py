"""From examples to batches on the host, read ahead by grain in threads or in worker processes.

All state is one number, the position in the global order of the next example. A batch is a pure function of it, so
the order depends neither on workers nor on hosts nor on what was read ahead when a run ended. Beside it goes a ledger
of what could not be read.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import absl.flags
import grain
import numpy as np

from jaxrep.data.bad_samples import EMPTY, BadSampleReport
from jaxrep.data.loading.reader import Reader
from jaxrep.data.orders.base import Indices
from jaxrep.data.source import Examples
from jaxrep.data.tokenizers.base import LoadedTokenizer
from jaxrep.errors import JaxrepError

Transform = Callable[[dict[str, Any]], dict[str, Any]]
"""What the host does to columns of B examples (arrays, lists of strings); worker processes need one that pickles."""

CHUNK = 256
"""Most rows that one read takes on: a large batch is read by several threads, into one batch's memory."""

DEAD_WORKER = "terminated unexpectedly"
"""What grain says of a worker process that is no longer there."""

LEDGER = "/ledger"
"""What was bad in a read, beside its arrays; no field has such a name."""


@dataclasses.dataclass(frozen=True)
class Tokenize:
    """Replaces texts by ``name`` int32 [B,L] and ``name/valid`` bool [B,L]; several texts an example give [B,V,L]."""

    tokenizer: LoadedTokenizer
    """Texts -> (ids [B,L], valid [B,L])."""
    names: tuple[str, ...] = ("text",)

    def __call__(self, columns: dict[str, Any]) -> dict[str, Any]:
        return columns | {key: value for name in self.names for key, value in self._tokens(name, columns[name]).items()}

    def of_length(self, tokens: int) -> "Tokenize":
        """The same with so many tokens a text."""
        return dataclasses.replace(self, tokenizer=dataclasses.replace(self.tokenizer, length=tokens))

    def _tokens(self, name: str, texts: Sequence[Any]) -> dict[str, np.ndarray]:
        views = () if isinstance(texts[0], str) else (len(texts[0]),)
        ids, valid = self.tokenizer([text for row in texts for text in row] if views else texts)
        shape = (len(texts), *views, ids.shape[-1])
        return {name: ids.reshape(shape), f"{name}/valid": valid.reshape(shape)}


def read(examples: Examples, indices: np.ndarray, transform: Transform | None = None) -> dict[str, np.ndarray]:
    """The arrays of a batch of the examples at ``indices``; what is left as strings stays behind."""
    return _arrays(examples.gather(indices), transform)


def _arrays(columns: dict[str, Any], transform: Transform | None) -> dict[str, np.ndarray]:
    columns = transform(columns) if transform else columns
    return {name: value for name, value in columns.items() if isinstance(value, np.ndarray)}


class Loader:
    """Batches without end: dictionaries of arrays that lead with this host's rows, and ``position`` uint32 [B,2]."""

    def __init__(
        self,
        examples: Examples,
        order: Indices,
        batch_size: int,
        *,
        transform: Transform | None = None,
        position: int = 0,
        ledger: BadSampleReport = EMPTY,
        seed: int = 0,
        max_bad_fraction: float = 0.0,
        skip_failed_shards: bool = False,
        alone: bool = True,
        rows: slice = slice(None),
        workers: int = 0,
        threads: int = 2,
    ):
        """``batch_size``: global; ``rows``: those of a batch that this host reads (``mesh.local_rows``).

        ``position``: of the first example, and ``ledger``: what was bad before it, as ``loader.position`` and
        ``loader.ledger`` said then. ``seed``: of what is drawn in reading. ``max_bad_fraction``: the share of examples
        that may be unreadable, and ``skip_failed_shards``: whether whole shards may. ``alone``: whether what is more
        raises here, or this is one of several hosts, which check their ledgers together. ``workers``: processes beside
        this one, each with ``threads`` threads; 0 reads in threads of this process.
        """
        if position < 0 or batch_size < 1:
            raise ValueError(f"position is at least 0 and batch_size at least 1, not {position} and {batch_size}")
        first, stop, stride = rows.indices(batch_size)
        if stop <= first or stride != 1:
            raise ValueError(f"rows {rows} of a batch of {batch_size} are not a range of rows")
        self.position, self.ledger, self.order, self.batch_size = position, ledger, order, batch_size
        self._max_bad_share, self._alone = max_bad_fraction, alone
        chunk = next(size for size in range(min(CHUNK, stop - first), 0, -1) if (stop - first) % size == 0)
        self._parts = (stop - first) // chunk
        reader = Reader(examples, order, seed, skip_failed_shards, alone, set(ledger.skipped_shards))
        chunks = _Chunks(reader, transform, position, first, batch_size, chunk, self._parts)
        ahead = max(self._parts, 2 * threads)  # what waits to be handed out must stop no thread
        reads = grain.MapDataset.source(chunks).to_iter_dataset(
            grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        )
        if workers:
            # grain reads absl's flags, which a program with another command line never parses
            if not absl.flags.FLAGS.is_parsed():
                absl.flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=-(-ahead // workers))
            reads = reads.mp_prefetch(options)
        # What a worker sends lies in shared memory, which must not outlive the worker.
        self._copies = workers > 0 or self._parts > 1
        self._reads = iter(reads)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch. Raises JaxrepError where more than ``max_bad_fraction`` of the examples so far were bad."""
        parts = [self._part() for _ in range(self._parts)]
        self.position += self.batch_size
        for part in parts:
            found = part.pop(LEDGER, None)
            self.ledger += BadSampleReport(len(part["position"])) if found is None else BadSampleReport.unpacked(found)
        if self._alone:  # several hosts stop together, where a checkpoint is saved
            self.ledger.check(self._max_bad_share)
        return _joined(parts) if self._copies else parts[0]

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
        """Ends threads and worker processes."""
        reads, self._reads = self._reads, iter(())
        if isinstance(reads, grain.DatasetIterator):
            reads.close()


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """Random access to runs of ``size`` rows, ``parts`` of them a batch; grain reads them in parallel, in order."""

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
        halves = np.stack([positions >> np.uint64(32), positions & np.uint64(0xFFFFFFFF)], axis=1)
        columns, ledger = self.reader.read(positions)
        told = {LEDGER: ledger.packed()} if ledger.bad or ledger.skipped_shards or ledger.failed_shards else {}
        transform, tokens = self.transform, self.reader.order.tokens(batch)
        if tokens and isinstance(transform, Tokenize):
            transform = transform.of_length(tokens)
        return _arrays(columns, transform) | {"position": halves.astype(np.uint32)} | told


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
