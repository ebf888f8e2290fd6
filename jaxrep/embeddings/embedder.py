"""From examples of any source to their embeddings by a model: read ahead by threads, encoded block by block."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data import values
from jaxrep.data.bad_samples import BadSampleReport, kind
from jaxrep.data.images.image import opened
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.embeddings.formats import Part
from jaxrep.errors import BadSample
from jaxrep.model import Model

AHEAD = 2
"""Blocks of examples that are read while one is encoded."""

KEYS = ("key", "code")
"""Fields that name an example; without one, its number does."""

Row = dict[str, Any]


class Embedder:
    """The embeddings of ranges of examples. ``parts``: which of image and text are read."""

    def __init__(self, model: Model, examples: Examples, parts: Sequence[str]):
        self._model, self._examples, self._parts = model, examples, tuple(parts)

    def __call__(
        self, rows: range, advance: Callable[[int], None] = lambda rows: None
    ) -> tuple[Part | None, BadSampleReport]:
        """The columns of those that can be read (None: none can), and what there is to tell of the others.

        ``advance`` is told how many rows are done. Raises BadShard: a shard of the data cannot be read.
        """
        blocks: list[Part] = []
        ledger = BadSampleReport()
        for block in _blocks(self._try, rows, self._model.block_size):
            read = [row for row in block if isinstance(row, dict)]
            ledger += sum((row for row in block if isinstance(row, BadSampleReport)), BadSampleReport(len(read)))
            if read:
                blocks.append(self._columns(read))
            advance(len(block))
        if not blocks:
            return None, ledger
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}, ledger

    def _try(self, index: int) -> Row | BadSampleReport:
        try:
            return self._read(index)
        except BadSample as error:
            return BadSampleReport(1, {(self._examples.shard(index), kind(error.reason)): 1}, (str(error),))

    def _read(self, index: int) -> Row:
        """One example as the model takes it. A picture that is still a file goes through the model's own transform."""
        if not (isinstance(self._examples, EncodedExamples) and self._model.transforms):
            row = self._examples[index]
            name = next((row[key] for key in KEYS if key in row), index)
            return {"key": str(name), "index": index} | {part: row[part] for part in self._parts}
        contents = self._examples.contents(index)
        row = {part: self._decoded(part, index, contents[part]) for part in self._parts}
        return {"key": self._examples.key(index), "index": index, **row}

    def _decoded(self, part: str, index: int, content: bytes) -> Any:
        assert isinstance(self._examples, EncodedExamples)
        try:
            return values.decode_text(content) if part == "text" else opened(content, self._model.image)
        except ValueError as error:
            raise BadSample(self._examples.place(index, part), str(error)) from error

    def _columns(self, rows: Sequence[Row]) -> Part:
        columns = {"key": np.array([row["key"] for row in rows]), "index": np.array([row["index"] for row in rows])}
        for part in self._parts:
            values = [row[part] for row in rows]
            columns[part] = (
                self._model.encode_text(values)
                if part == "text"
                else self._model.encode({part: np.stack(values)}, (part,))[part]
            )
        return columns


def _blocks(read: Callable[[int], Any], rows: range, size: int) -> Iterator[list[Any]]:
    """``read`` of each of ``rows``, ``size`` at a time and in order; threads are some blocks ahead."""
    ahead: deque[list[Future[Any]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for start in range(rows.start, rows.stop, size):
                ahead.append([pool.submit(read, index) for index in range(start, min(start + size, rows.stop))])
                if len(ahead) > AHEAD:
                    yield [found.result() for found in ahead.popleft()]
            while ahead:
                yield [found.result() for found in ahead.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
