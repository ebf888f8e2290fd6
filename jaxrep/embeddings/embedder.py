"""Embed examples of any source: threads read ahead, and the model encodes block by block."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data.bad_samples import BadSampleReport, reason_kind
from jaxrep.data.decode import decode_text
from jaxrep.data.images.decode import open_image
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.embeddings.formats import Part
from jaxrep.errors import BadSample
from jaxrep.model import Model

BLOCKS_AHEAD = 2
"""Blocks of examples that are read while one is encoded."""

KEYS = ("key", "code")
"""Fields that name an example. Without them its index is its name."""

Row = dict[str, Any]


class Embedder:
    """Embed ranges of examples. ``fields``: which of image and text are read."""

    def __init__(self, model: Model, examples: Examples, fields: Sequence[str]):
        self._model, self._examples, self._fields = model, examples, tuple(fields)

    def __call__(
        self, rows: range, advance: Callable[[int], None] = lambda rows: None
    ) -> tuple[Part | None, BadSampleReport]:
        """Return the columns of the readable examples (None: there are none), and a report on the others.

        ``advance`` receives the number of finished rows. Raises BadShard: a shard of the data cannot be read.
        """
        blocks: list[Part] = []
        report = BadSampleReport()
        for block in _read_ahead(self._try_read, rows, self._model.block_size):
            good = [row for row in block if isinstance(row, dict)]
            report += sum((row for row in block if isinstance(row, BadSampleReport)), BadSampleReport(len(good)))
            if good:
                blocks.append(self._encode(good))
            advance(len(block))
        if not blocks:
            return None, report
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}, report

    def _try_read(self, index: int) -> Row | BadSampleReport:
        try:
            return self._read(index)
        except BadSample as error:
            return BadSampleReport(1, {(self._examples.shard(index), reason_kind(error.reason)): 1}, (str(error),))

    def _read(self, index: int) -> Row:
        """Read one example as the model's input. An image file goes through the model's transform, if it has one."""
        examples = self._examples
        if not (isinstance(examples, EncodedExamples) and self._model.transforms):
            row = examples[index]
            name = next((row[key] for key in KEYS if key in row), index)
            return {"key": str(name), "index": index} | {field: row[field] for field in self._fields}
        row, contents = {"key": examples.key(index), "index": index}, examples.contents(index)
        for field in self._fields:
            try:
                row[field] = (
                    decode_text(contents[field])
                    if field == "text"
                    else open_image(contents[field], self._model.preprocess)
                )
            except ValueError as error:
                raise BadSample(examples.place(index, field), str(error)) from error
        return row

    def _encode(self, rows: Sequence[Row]) -> Part:
        columns = {name: np.array([row[name] for row in rows]) for name in ("key", "index")}
        for field in self._fields:
            values = [row[field] for row in rows]
            encode = self._model.encode_text if field == "text" else self._encode_images
            columns[field] = encode(values)
        return columns

    def _encode_images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self._model.encode({"image": np.stack(images)}, ("image",))["image"]


def _read_ahead(read: Callable[[int], Any], rows: range, size: int) -> Iterator[list[Any]]:
    """Yield ``read`` of each of ``rows``, ``size`` at a time and in order. Threads are some blocks ahead."""
    ahead: deque[list[Future[Any]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for start in range(rows.start, rows.stop, size):
                ahead.append([pool.submit(read, index) for index in range(start, min(start + size, rows.stop))])
                if len(ahead) > BLOCKS_AHEAD:
                    yield [future.result() for future in ahead.popleft()]
            while ahead:
                yield [future.result() for future in ahead.popleft()]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
