"""Embed a whole data set block by block, and keep the columns that an evaluation needs beside the embeddings.

On several hosts, each host reads and decodes the images of its own devices, and gets the embeddings and columns of all.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from jaxrep import hosts
from jaxrep.data.loading.readable import Row, check_bad_share, report_skipped, rows_ahead
from jaxrep.data.source import Examples
from jaxrep.errors import BadSample, JaxrepError, UsageError
from jaxrep.evals.base import Model
from jaxrep.metrics.ranking import require_finite, unit_rows

PIXELS = "pixels"
"""Name of an output that is no model output: the pixels of the model's input image, from 0 to 1, as a baseline."""


def embed_images(
    model: Model,
    examples: Examples,
    image: str,
    columns: Sequence[str] = (),
    *,
    output: str = "",
    normalize: bool = True,
) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Embed the column ``image``: embeddings float32 [N,D] of all examples, and the values of ``columns``.

    An unreadable example has no row. The number of such examples is printed.

    Args:
        output: Name of the model output, or ``PIXELS``. Empty: the output that has the name of the column.
        normalize: Whether to scale the rows to unit length.

    Raises:
        JaxrepError: There is no example, too many are unreadable, an embedding is not finite, the output is not one
            vector per image, or the model does not read such images.
    """
    if not len(examples):
        raise JaxrepError("there are no examples to evaluate on")
    output = output or image
    blocks = [*output_blocks(model, examples, image, (output,), columns, normalize=normalize)]
    embeddings = np.concatenate([outputs[output] for outputs, _ in blocks])
    if embeddings.ndim != 2:
        raise JaxrepError(
            f"'{output}' is an array of shape {list(embeddings.shape[1:])} per image, and evaluations compare vectors: "
            f"choose a pooled output, as {image}"
        )
    require_finite(embeddings, lambda i: f"'{image}' of example {i}")
    return embeddings, {column: [value for _, block in blocks for value in block[column]] for column in columns}


def output_blocks(
    model: Model, examples: Examples, image: str, want: Sequence[str], columns: Sequence[str], *, normalize: bool
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, list[Any]]]]:
    """Yield the outputs ``want`` of the images and the values of ``columns``, per block of readable examples.

    Raises JaxrepError on all hosts: too many examples are unreadable, or the model does not read such images.
    """
    model.require(image)
    bad: list[BadSample] = []
    size = model.layout.max_rows
    blocks = [np.arange(start, min(start + size, len(examples))) for start in range(0, max(len(examples), 1), size)]
    of_host = [block[model.layout.host_rows(len(block))] for block in blocks]

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        return {column: row[column] for column in columns} | {PIXELS: model.preprocess(row[image], image)}

    with contextlib.closing(rows_ahead(examples, itertools.chain(*of_host), size, prepare)) as rows:
        for (start, count), indices in zip(model.blocks(len(examples)), of_host, strict=True):
            task = f"reading of '{image}' from example {start} on"
            images, rows_of_host = hosts.on_all_hosts(task, lambda: _read(model, rows, indices, image))  # noqa: B023
            block = _merge(hosts.all_gather_object(task, rows_of_host))
            good = {index: row for index, row in block.items() if not isinstance(row, BadSample)}
            bad += [row for row in block.values() if isinstance(row, BadSample)]
            check_bad_share(bad, len(examples))
            outputs = _outputs(model, image, images, count, want, normalize)
            kept = np.array([*good], np.int64) - start
            yield (
                {name: x[kept] for name, x in outputs.items()},
                {c: [row[c] for row in good.values()] for c in columns},
            )
    report_skipped(bad, len(examples), aloud=hosts.is_main())


def _read(
    model: Model, rows: Iterator[Future[Row]], indices: np.ndarray, image: str
) -> tuple[np.ndarray, dict[int, Row]]:
    """Return images uint8 [n,H,W,3] at the model's input size, black if unreadable, and rows of the columns."""
    images, rows_by_index = np.zeros((len(indices), *model.image_shape(image)), np.uint8), {}
    for i, future in enumerate(itertools.islice(rows, len(indices))):
        row = future.result()
        if not isinstance(row, BadSample):
            images[i] = row.pop(PIXELS)
        rows_by_index[int(indices[i])] = row
    return images, rows_by_index


def _merge(rows_of_hosts: Sequence[dict[int, Row]]) -> dict[int, Row]:
    """Merge the rows of all hosts by index. A row that two hosts read is bad if one of them could not read it."""
    merged: dict[int, Row] = {}
    for rows_of_host in rows_of_hosts:
        merged |= {i: row for i, row in rows_of_host.items() if not isinstance(merged.get(i), BadSample)}
    return dict(sorted(merged.items()))


def _outputs(
    model: Model, image: str, images: np.ndarray, count: int, want: Sequence[str], normalize: bool
) -> dict[str, np.ndarray]:
    """Return outputs by name of a block of ``count`` rows. ``images`` are those of this host."""
    if PIXELS not in want:
        return model.encode_block({image: images}, count, want, normalize=normalize)
    pixels = model.layout.gather(images, count).reshape(count, -1).astype(np.float32) / 255
    return {PIXELS: unit_rows(pixels) if normalize else pixels}


def embed_texts(model: Model, texts: Sequence[str], text: str) -> np.ndarray:
    """Embed texts with the model's tower ``text``: float32 [N,D].

    Raises:
        JaxrepError: An embedding is not finite, or the model does not read texts.
    """
    model.require(text)
    embeddings = model.encode_text(texts, text)
    require_finite(embeddings, lambda i: f"the text {texts[i]!r}")
    return embeddings


def embed_each(model: Model, texts: Iterable[str], text: str) -> dict[str, np.ndarray]:
    """Embed each distinct text once: rows float32 [D] by text."""
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, embed_texts(model, distinct, text), strict=True))


def unique_texts(texts: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return each text once, and the index of each of ``texts`` among them, int64 [N].

    An array of strings would take the memory of the longest text for each of them.
    """
    first: dict[str, int] = {}
    index = np.array([first.setdefault(text, len(first)) for text in texts], np.int64)
    return tuple(first), index


def logit_scale(model: Model, temperature: float = 0.0) -> float:
    """Return the factor of similarities before a softmax: 1 / ``temperature``, or the learned one if it is 0.

    Raises UsageError: The model has no learned logit scale.
    """
    if temperature:
        return 1 / temperature
    try:
        return float(model.per_step(("scale",))["scale"])
    except UsageError as error:
        raise UsageError(f"{error}: it has not learned a logit scale, so give a temperature, as 0.01") from None
