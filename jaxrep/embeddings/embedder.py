"""Embed examples of any source: threads read ahead, and the model encodes block by block."""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxrep.data._util.parallel import thread_map
from jaxrep.data.bad_samples import BadSampleReport, reason_kind
from jaxrep.data.decode import decode_text
from jaxrep.data.images.decode import open_image
from jaxrep.data.source import Examples
from jaxrep.data.sources.embedding_files import short_key
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.transforms.balance import key_of
from jaxrep.data.transforms.stored import name_of
from jaxrep.embeddings.formats import Part
from jaxrep.errors import BadSample
from jaxrep.model import Model

BLOCKS_AHEAD = 2
"""Blocks of examples that are read while one is encoded."""

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
        size = self._model.block_size
        with contextlib.closing(thread_map(self._try_read, rows, BLOCKS_AHEAD * size)) as futures:
            while block := [future.result() for future in itertools.islice(futures, size)]:
                good = [row for row in block if isinstance(row, dict)]
                report += sum((row for row in block if isinstance(row, BadSampleReport)), BadSampleReport(len(good)))
                if good:
                    blocks.append(self._encode(good))
                advance(len(block))
        if not blocks:
            return None, report
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}, report

    def key(self, index: int) -> str:
        """Return the key of an example that is not read."""
        return short_key(key_of(self._examples, index))

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
            name = name_of(row)
            key = str(index if name is None else name)
            return {"key": key, "index": index} | {field: row[field] for field in self._fields}
        row, contents = {"key": examples.key(index), "index": index}, examples.contents(index)
        for field in self._fields:
            with examples.explain_errors(index, field):
                if isinstance(contents[field], tuple):
                    raise ValueError(f"it has {len(contents[field])} captions, and one is embedded")
                row[field] = (
                    decode_text(contents[field])
                    if field == "text"
                    else open_image(contents[field], self._model.preprocess)
                )
        return row

    def _encode(self, rows: Sequence[Row]) -> Part:
        columns = {"key": np.array([short_key(row["key"]) for row in rows])}
        columns["index"] = np.array([row["index"] for row in rows])
        encoders = {"image": self._model.encode_image, "text": self._model.encode_text}
        return columns | {field: encoders[field]([row[field] for row in rows]) for field in self._fields}
