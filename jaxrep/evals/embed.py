"""Embeddings of a whole data set, a block of examples after another, with the columns that an evaluation needs besides.

Of several hosts each reads and decodes the pictures that its devices hold, and has the embeddings and columns of all.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxrep import hosts
from jaxrep.data.loading.readable import Row, check, go_without, rows
from jaxrep.data.source import Examples
from jaxrep.errors import BadSample, JaxrepError, UsageError
from jaxrep.metrics.ranking import require_finite, unit_rows
from jaxrep.model import Model

PIXELS = "pixels"
"""In place of an output: the pixels of the picture that the model sees, from 0 to 1, as a baseline."""


def embed_images(
    model: Model,
    examples: Examples,
    image: str,
    columns: Sequence[str] = (),
    *,
    output: str = "",
    unit: bool = True,
) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Embeddings float32 [N,D] of the field ``image`` of every example, and the values of ``columns``.

    An example that cannot be read has no row; how many there are is printed.

    Args:
        output: the output of the method's rows that is taken, or ``PIXELS``; empty: that of the field's name.
        unit: whether rows are scaled to unit length, or left as the method emits them.

    Raises:
        JaxrepError: there is no example, too many cannot be read, the embedding of one is not finite, the output is no
            vector a picture, or the model does not read such images.
    """
    if not len(examples):
        raise JaxrepError("there are no examples to evaluate on")
    output = output or image
    embeddings, kept = [], {column: [] for column in columns}
    for found, values in encoded(model, examples, image, (output,), columns, unit=unit):
        embeddings.append(found[output])
        for column in columns:
            kept[column].extend(values[column])
    joined = np.concatenate(embeddings)
    if joined.ndim != 2:
        raise JaxrepError(
            f"'{output}' is an array of shape {list(joined.shape[1:])} a picture, and evaluations compare "
            f"vectors: take a pooled output, as {image}"
        )
    require_finite(joined, lambda i: f"'{image}' of example {i}")
    return joined, kept


def encoded(
    model: Model, examples: Examples, image: str, want: Sequence[str], columns: Sequence[str], *, unit: bool
) -> Iterator[tuple[dict[str, np.ndarray], dict[str, list[Any]]]]:
    """Of the examples of each block that can be read: the outputs ``want`` of the pictures, and the values of columns.

    Raises JaxrepError, on all hosts: too many cannot be read, or the model does not read such images.
    """
    model.require(image)
    bad: list[BadSample] = []
    for start in model.starts(len(examples)):
        count = min(model.rows_at_once, len(examples) - start)
        places = np.arange(start, start + count)[model.share(count)]
        what = f"reading of '{image}' from example {start} on"
        pictures, own = hosts.on_all_hosts(what, lambda: _read(model, examples, places, image, columns))  # noqa: B023
        block = _of_all(hosts.all_gather_object(what, own))
        good = {place: row for place, row in block.items() if not isinstance(row, BadSample)}
        bad += [row for row in block.values() if isinstance(row, BadSample)]
        check(bad, len(examples))
        found = _outputs(model, image, pictures, count, want, unit)
        at = np.array([*good], np.int64) - start
        yield {name: x[at] for name, x in found.items()}, {c: [row[c] for row in good.values()] for c in columns}
    go_without(bad, len(examples), aloud=hosts.is_main())


def _read(
    model: Model, examples: Examples, places: np.ndarray, image: str, columns: Sequence[str]
) -> tuple[np.ndarray, dict[int, Row]]:
    """Pictures uint8 [n,H,W,3] as the model reads them, black where one cannot be read, and rows of the columns."""
    pictures, own = np.zeros((len(places), *model.picture_shape(image)), np.uint8), {}
    for i, row in enumerate(rows(examples, places)):
        if not isinstance(row, BadSample):
            pictures[i] = model.image(row[image], image)
            row = {column: row[column] for column in columns}
        own[int(places[i])] = row
    return pictures, own


def _of_all(said: Sequence[dict[int, Row]]) -> dict[int, Row]:
    """The rows that the hosts have read, in their order; one that two hosts hold is bad where one could not read it."""
    found: dict[int, Row] = {}
    for own in said:
        found |= {place: row for place, row in own.items() if not isinstance(found.get(place), BadSample)}
    return dict(sorted(found.items()))


def _outputs(
    model: Model, image: str, pictures: np.ndarray, count: int, want: Sequence[str], unit: bool
) -> dict[str, np.ndarray]:
    """Outputs by name of a block of ``count`` rows, of which the pictures are this host's."""
    if PIXELS not in want:
        return model.of_share({image: pictures}, count, want, unit=unit)
    pixels = model.gathered(pictures, count).reshape(count, -1).astype(np.float32) / 255
    return {PIXELS: unit_rows(pixels) if unit else pixels}


def embed_texts(model: Model, texts: Sequence[str], text: str) -> np.ndarray:
    """Embeddings float32 [N,D] of ``texts`` by the model's tower ``text``.

    Raises:
        JaxrepError: the embedding of a text is not finite, or the model does not read texts.
    """
    model.require(text)
    embeddings = model.encode_text(texts, text)
    require_finite(embeddings, lambda i: f"the text {texts[i]!r}")
    return embeddings


def logit_scale(model: Model, temperature: float = 0.0) -> float:
    """Return the factor of similarities before a softmax: 1 / ``temperature``, or the learned one if it is 0.

    Raises UsageError: the model has not learned one.
    """
    if temperature:
        return 1 / temperature
    try:
        return float(model.per_step(("scale",))["scale"])
    except UsageError as error:
        raise UsageError(f"{error}: it has not learned a logit scale, so give a temperature, as 0.01") from None
