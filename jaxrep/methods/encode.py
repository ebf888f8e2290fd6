"""What methods share: a field of the batch through its tower and head, and what comes of several of them."""

from typing import Any

import jax

from jaxrep.batch import Batch, Outputs, StepContext, fold, unfold
from jaxrep.encoders.base import EncoderOutput
from jaxrep.methods.base import BATCH_STATS, name_errors


def encode_and_project(
    module: Any, name: str, rank: int, batch: Batch, ctx: StepContext, *, tower: str = ""
) -> Outputs:
    """What a tower and its head make of a field: ``<name>``, ``<name>/pooled``, ``<name>/tokens`` and new statistics.

    ``tower``: the tower's name where it is not the field's; running statistics are those of the tower's own field.
    """
    tower = tower or name
    encoded, views = encode_field(module, name, rank, batch, ctx, tower=tower)
    with jax.named_scope(f"{tower}_head"):
        out: Outputs = {name: unfold(getattr(module, f"{tower}_head")(encoded.pooled), views)}
    out[f"{name}/pooled"] = unfold(encoded.pooled, views)
    if encoded.tokens is not None:
        out[f"{name}/tokens"] = unfold(encoded.tokens, views)
    return out | batch_stats_output(tower, encoded) if name == tower else out


def encode_field(
    module: Any,
    name: str,
    rank: int,
    batch: Batch,
    ctx: StepContext,
    *,
    tower: str = "",
    intermediates: tuple[int, ...] = (),
) -> tuple[EncoderOutput, int | None]:
    """What a tower makes of a field, [B,...] or [B,V,...], and of what says which of its tokens are real or hidden:
    its features with B * V rows, and V or None."""
    x, views = fold(batch[name], rank)
    valid, masked = (
        fold(batch[field], 2)[0] if field in batch else None for field in (f"{name}/valid", f"{name}/masked")
    )
    with name_errors(name):
        encoded = getattr(module, tower or name)(
            x, valid=valid, masked=masked, intermediates=intermediates, ctx=ctx.at(name).repeat(views)
        )
    return encoded, views


def batch_stats_output(part: str, encoded: EncoderOutput) -> Outputs:
    """The new running statistics of a part under their reserved name, or nothing where it has none."""
    return {} if encoded.batch_stats is None else {BATCH_STATS: {part: encoded.batch_stats}}


def merge_outputs(*outputs: Outputs) -> Outputs:
    """All outputs in one, with the new statistics of all parts."""
    out: Outputs = {name: x for each in outputs for name, x in each.items()}
    new = {part: x for each in outputs for part, x in each.get(BATCH_STATS, {}).items()}
    return {**out, BATCH_STATS: new} if new else out
