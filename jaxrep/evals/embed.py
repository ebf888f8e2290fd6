"""Embeddings of a whole data set, some examples at a time, with the columns that an evaluation needs besides."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrep.data.readable import blocks
from jaxrep.data.source import Examples
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.evals.ranks import require_finite
from jaxrep.model import Model

EXAMPLES_AT_ONCE = 1024

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

    An example that cannot be read has no row; how many there are is printed (``readable.blocks``).

    Args:
        output: the output of the method's rows that is taken, or ``PIXELS``; empty: that of the field's name.
        unit: whether rows are scaled to unit length, or left as the method emits them.

    Raises:
        JaxrepError: there is no example, too many cannot be read, the embedding of one is not finite, the output is no
            vector a picture, or the model does not read such images.
    """
    if not len(examples):
        raise JaxrepError("there are no examples to evaluate on")
    require_field(model, image)
    embeddings, kept = [], {column: [] for column in columns}
    for rows in blocks(examples, EXAMPLES_AT_ONCE):
        embeddings.append(_features(model, rows[image], image, output, unit))
        for column in columns:
            kept[column].extend(rows[column])
    joined = np.concatenate(embeddings)
    require_finite(joined, lambda i: f"'{image}' of example {i}")
    return joined, kept


def _features(model: Model, pictures: Sequence[Any], image: str, output: str, unit: bool) -> np.ndarray:
    if output == PIXELS:
        rows = np.stack([model.image(picture, image).ravel() for picture in pictures]).astype(np.float32) / 255
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) if unit else rows
    found = model.encode_image(pictures, image, output=output, unit=unit)
    if found.ndim != 2:
        raise JaxrepError(
            f"'{output or image}' is an array of shape {list(found.shape[1:])} a picture, and evaluations compare "
            f"vectors: take a pooled output, as {image}"
        )
    return found


def embed_texts(model: Model, texts: Sequence[str], text: str) -> np.ndarray:
    """Embeddings float32 [N,D] of ``texts`` by the model's tower ``text``.

    Raises:
        JaxrepError: the embedding of a text is not finite, or the model does not read texts.
    """
    require_field(model, text)
    embeddings = model.encode_text(texts, text)
    require_finite(embeddings, lambda i: f"the text {texts[i]!r}")
    return embeddings


def require_field(model: Model, name: str) -> None:
    """That the model has a tower for ``name``. Raises UsageError."""
    if name not in model.fields:
        raise UsageError(f"the model has no tower that reads '{name}'; {hint(name, model.fields)}")
