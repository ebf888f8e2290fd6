"""Encoding of a field of the batch by its tower and head, and merging of outputs."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax

from jaxrep.batch import Array, Batch, Field, Outputs, StepContext, fold, require_fields, unfold
from jaxrep.encoders.base import Encoder, EncoderInputs, EncoderOutput
from jaxrep.methods.base import BATCH_STATS, name_errors


def encode_and_project(
    module: Any, name: str, encoder: Encoder, batch: Batch, ctx: StepContext, *, tower: str = ""
) -> Outputs:
    """Return ``<name>``, ``<name>/pooled``, ``<name>/tokens`` and new statistics, from a field's tower and head.

    Args:
        module: the method's module.
        name: the field.
        encoder: the spec of the tower.
        batch: the batch.
        ctx: the step context.
        tower: name of the tower if it is not the field's; running statistics are those of the tower's own field.
    """
    tower = tower or name
    encoded, views = encode_field(module, name, encoder, batch, ctx, tower=tower)
    with jax.named_scope(f"{tower}_head"):
        out: Outputs = {name: unfold(getattr(module, f"{tower}_head")(encoded.pooled), views)}
    out[f"{name}/pooled"] = unfold(encoded.pooled, views)
    if encoded.tokens is not None:
        out[f"{name}/tokens"] = unfold(encoded.tokens, views)
    return out | batch_stats_output(tower, encoded) if name == tower else out


def encode_field(
    module: Any,
    name: str,
    encoder: Encoder,
    batch: Batch,
    ctx: StepContext,
    *,
    tower: str = "",
    intermediates: tuple[int, ...] = (),
) -> tuple[EncoderOutput, int | None]:
    """Encode a field [B,...] or [B,V,...] with its ``<name>/valid``, ``<name>/masked`` and marks.

    Arguments are those of ``encode_and_project``. Returns the features of the B * V rows, and V or None.
    """
    x, views = fold(batch[name], encoder.rank)
    valid, masked = (fold(batch[f], 2)[0] if f in batch else None for f in (f"{name}/valid", f"{name}/masked"))
    with name_errors(name):
        marks = read_marks(batch, name, encoder, views)
        inputs = EncoderInputs(x, valid, masked, ctx.at(name).repeat(views), intermediates, marks=marks)
        return getattr(module, tower or name)(inputs), views


def read_marks(batch: Batch, name: str, encoder: Encoder, views: int | None) -> dict[str, Array]:
    """Return the fields that an encoder reads beside ``name``, with views folded as those of ``name``.

    Raises:
        ValueError: the batch lacks one, or it has other views.
    """
    marks = {}
    for mark, classes in encoder.marks.items():
        field = f"{name}/{mark}"
        require_fields(batch, "the encoder", field)
        marks[mark], own = fold(batch[field], 3 if classes is None else 2)
        if own != views:
            raise ValueError(f"'{field}' has {own or 1} views, and '{name}' has {views or 1}: they have to be as many")
    return marks


def input_field(fields: Mapping[str, Field], name: str, encoder: Encoder) -> Field:
    """Return a field as its encoder sees it: without a second axis [B,V,...].

    Raises:
        ValueError: a mark may hold integers for which the encoder has no vector.
    """
    for mark, classes in encoder.marks.items():
        field = f"{name}/{mark}"
        held = fields[field].classes if field in fields else None
        if held is not None and classes is not None and held > classes:
            raise ValueError(
                f"'{field}' holds integers below {held}, and the encoder's table of this mark has {classes} rows: set "
                f"classes = {held}"
            )
    return replace(fields[name], shape=fields[name].shape[-(encoder.rank - 1) :])


def batch_stats_output(part: str, encoded: EncoderOutput) -> Outputs:
    """Return the new running statistics of a part under their reserved name, or nothing if it has none."""
    return {} if encoded.batch_stats is None else {BATCH_STATS: {part: encoded.batch_stats}}


def mean_batch_stats(part: str, states: Iterable[Any]) -> Outputs:
    """Return the mean of the new running statistics of a part that was called several times in a step.

    Each call moves the same statistics equally, so their mean moves by the mean of the calls. None: a call has none.
    """
    found = [state for state in states if state is not None]
    return {BATCH_STATS: {part: jax.tree.map(lambda *values: sum(values) / len(values), *found)}} if found else {}


def merge_outputs(*outputs: Outputs) -> Outputs:
    """Return all outputs in one dictionary, with the new statistics of all parts."""
    merged: Outputs = {name: x for some in outputs for name, x in some.items()}
    batch_stats = {part: x for some in outputs for part, x in some.get(BATCH_STATS, {}).items()}
    return {**merged, BATCH_STATS: batch_stats} if batch_stats else merged
