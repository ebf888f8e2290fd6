"""Embed a field of a whole data set block by block, and keep the columns that an evaluation needs beside it.

A field is read as the model reads it: pictures by its transform, texts by its tokenizer, other arrays as they are, with
what lies beside the field (``<field>/valid`` and the encoder's marks). On several hosts, each host reads and decodes
the rows of its own devices, and gets the embeddings and columns of all.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrep import hosts
from jaxrep.batch import StepContext
from jaxrep.data.loading.readable import check_bad_share, report_skipped, rows_ahead
from jaxrep.data.source import Examples
from jaxrep.errors import BadSample, JaxrepError, UsageError
from jaxrep.evals.base import Model
from jaxrep.evals.field_reader import FieldReader, read_block
from jaxrep.metrics.ranking import require_finite, unit_rows
from jaxrep.views.base import View

PIXELS = "pixels"
"""Name of an output that is no model output: the numbers of the model's input as they are (of a picture its pixels from
0 to 1), as a baseline."""

Inputs = Mapping[str, np.ndarray]
Block = tuple[dict[str, np.ndarray], dict[str, list[Any]]]
"""Outputs of a block of rows by name, and the values of columns."""


def embed_rows(
    model: Model,
    examples: Examples,
    field: str,
    outputs: Sequence[str] = ("",),
    columns: Sequence[str] = (),
    *,
    unit: bool,
    views: Sequence[View] = (),
    draws: int = 1,
    seed: int = 0,
) -> tuple[np.ndarray, dict[str, list[Any]]]:
    """Embed the column ``field``: embeddings float32 [N,D] of all examples, and the values of ``columns``.

    An unreadable example has no row. The number of such examples is printed.

    Args:
        model: The model.
        examples: The examples.
        field: The column, and the model's field of that name.
        outputs: Names of model outputs, or ``PIXELS``. An empty name is ``field``. The rows of several outputs are
            scaled to unit length each, and joined.
        columns: Columns whose values are returned.
        unit: Whether to scale the rows of the result to unit length.
        views: Views that change the inputs first. A draw depends on the seed and on the index of the example alone.
        draws: Number of draws of the views. The embedding is the mean over the draws.
        seed: Seed of the draws.

    Raises:
        JaxrepError: There is no example, too many are unreadable, an embedding is not finite, an output is not one
            vector per row, or the model cannot read the field.
    """
    if not len(examples):
        raise JaxrepError("there are no examples to evaluate on")
    names = [output or field for output in outputs]
    augment = _augmentation(views, draws, seed)
    found = [*output_blocks(model, examples, field, names, columns, unit=unit, augment=augment, draws=draws)]
    parts = [np.concatenate([block[name] for block, _ in found]) for name in names]
    for name, x in zip(names, parts, strict=True):
        if x.ndim != 2:
            raise JaxrepError(
                f"'{name}' is an array of shape {list(x.shape[1:])} per row, and evaluations compare vectors: choose a "
                f"pooled output, as {field}"
            )
    joined = len(parts) > 1
    embeddings = np.concatenate([unit_rows(x) for x in parts], axis=1) if joined else parts[0]
    embeddings = unit_rows(embeddings) if unit and (joined or draws > 1) else embeddings
    require_finite(embeddings, lambda i: f"'{field}' of example {i}")
    return embeddings, {column: [value for _, block in found for value in block[column]] for column in columns}


def output_blocks(
    model: Model,
    examples: Examples,
    field: str,
    want: Sequence[str],
    columns: Sequence[str],
    *,
    unit: bool,
    arrays: Sequence[str] = (),
    resize: bool = True,
    augment: Callable[..., Mapping[str, Any]] | None = None,
    draws: int = 1,
) -> Iterator[Block]:
    """Yield outputs of the rows and the values of ``columns``, per block of readable examples.

    Args:
        model: The model.
        examples: The examples.
        field: The column that the model reads.
        want: Names of model outputs, or ``PIXELS``.
        columns: Columns whose values are returned.
        unit: Whether rows of outputs are scaled to unit length.
        arrays: Columns of arrays of one shape, returned among the outputs as they are.
        resize: Whether pictures are brought to the model's size, and other arrays have to have its shape. Otherwise
            they keep the size that the data have.
        augment: Changes the inputs: (inputs, indices, number of the draw) -> inputs.
        draws: Number of draws, over which outputs are averaged.

    Raises JaxrepError on all hosts: too many examples are unreadable, or the model cannot read the field.
    """
    model.require(field)
    bad: list[BadSample] = []
    size = model.layout.max_rows
    blocks = [np.arange(start, min(start + size, len(examples))) for start in range(0, max(len(examples), 1), size)]
    of_host = [block[model.layout.host_rows(len(block))] for block in blocks]
    reader = FieldReader(model, field, columns, arrays, resize=resize and augment is None)
    with contextlib.closing(rows_ahead(examples, itertools.chain(*of_host), size, reader)) as rows:
        for (start, count), indices in zip(model.blocks(len(examples)), of_host, strict=True):
            task = f"reading of '{field}' from example {start} on"
            inputs, block = read_block(task, rows, indices)
            good = {index: row for index, row in block.items() if not isinstance(row, BadSample)}
            bad += [row for row in block.values() if isinstance(row, BadSample)]
            check_bad_share(bad, len(examples))
            if not good:
                continue
            given = {name: model.layout.gather(inputs[name], count) for name in arrays}
            own = {name: x for name, x in inputs.items() if name not in arrays}
            drawn = (_draw(own, augment, indices, draw) for draw in range(draws))
            outputs = _mean([_outputs(model, field, each, count, want, unit) for each in drawn])
            kept = np.array([*good], np.int64) - start
            yield (
                {name: x[kept] for name, x in {**given, **outputs}.items()},
                {c: [row[c] for row in good.values()] for c in columns},
            )
    report_skipped(bad, len(examples), aloud=hosts.is_main())


def _augmentation(views: Sequence[View], draws: int, seed: int) -> Callable[..., Mapping[str, Any]] | None:
    """Return what changes the inputs of a draw, or None if no view does. Raises UsageError."""
    if draws < 1 or (draws > 1 and not views):
        raise UsageError(f"draws is {draws}, and views {len(views)}: give one draw, or views whose draws differ")
    if coupling := [type(view).__name__ for view in views if view.couples_rows]:
        raise UsageError(f"the view {coupling[0]} mixes rows, so a row has no embedding of its own: leave it out")
    if not views:
        return None

    @jax.jit
    def augment(inputs: Mapping[str, Any], indices: Any, draw: Any) -> Mapping[str, Any]:
        positions = jnp.stack([jnp.full(len(indices), draw, jnp.uint32), indices.astype(jnp.uint32)], axis=1)
        ctx = StepContext(jnp.int32(draw), jax.random.key(seed), positions, training=False)
        for i, view in enumerate(views):
            inputs = view(inputs, ctx.at(f"views/{i}"))
        return inputs

    return augment


def _mean(draws: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the mean of outputs over draws."""
    return draws[0] if len(draws) == 1 else {name: np.mean([each[name] for each in draws], axis=0) for name in draws[0]}


def _draw(inputs: Inputs, augment: Callable[..., Mapping[str, Any]] | None, indices: np.ndarray, draw: int) -> Inputs:
    """Return the inputs of this host's rows after the views."""
    if augment is None or not len(indices):
        return inputs
    return {name: np.asarray(x) for name, x in augment(inputs, indices, draw).items() if name in inputs}


def _outputs(
    model: Model, field: str, inputs: Inputs, count: int, want: Sequence[str], unit: bool
) -> dict[str, np.ndarray]:
    """Return outputs by name of a block of ``count`` rows. ``inputs`` are those of this host."""
    outputs: dict[str, np.ndarray] = {}
    if names := [name for name in want if name != PIXELS]:
        try:
            outputs = model.encode_block(inputs, count, names, normalize=unit)
        except ValueError as error:  # of an encoder that does not read arrays of this shape
            raise JaxrepError(f"the model cannot read the examples: {error}") from error
    if PIXELS in want:
        x = model.layout.gather(inputs[field], count)
        numbers = x.reshape(count, -1).astype(np.float32) / np.float32(255 if x.dtype == np.uint8 else 1)
        outputs[PIXELS] = unit_rows(numbers) if unit else numbers
    return outputs


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
