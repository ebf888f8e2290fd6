"""What methods share: a field of the batch through its tower and head, and what comes of several of them."""

from typing import Any

import jax

from jaxrep.batch import Batch, Outputs, Tick, fold, unfold
from jaxrep.encoders.base import Encoded
from jaxrep.methods.method import STATISTICS, naming


def encode_rows(module: Any, name: str, rank: int, batch: Batch, tick: Tick, *, tower: str = "") -> Outputs:
    """What a tower and its head make of a field: ``<name>``, ``<name>/pooled``, ``<name>/tokens`` and new statistics.

    ``tower``: the tower's name where it is not the field's; running statistics are those of the tower's own field.
    """
    tower = tower or name
    encoded, views = encode_field(module, name, rank, batch, tick, tower=tower)
    with jax.named_scope(f"{tower}_head"):
        out: Outputs = {name: unfold(getattr(module, f"{tower}_head")(encoded.pooled), views)}
    out[f"{name}/pooled"] = unfold(encoded.pooled, views)
    if encoded.tokens is not None:
        out[f"{name}/tokens"] = unfold(encoded.tokens, views)
    return out | statistics(tower, encoded) if name == tower else out


def encode_field(
    module: Any, name: str, rank: int, batch: Batch, tick: Tick, *, tower: str = "", taps: tuple[int, ...] = ()
) -> tuple[Encoded, int | None]:
    """What a tower makes of a field, [B,...] or [B,V,...], and of what says which of its tokens are real or hidden:
    its features with B * V rows, and V or None."""
    x, views = fold(batch[name], rank)
    valid, hide = (fold(batch[field], 2)[0] if field in batch else None for field in (f"{name}/valid", f"{name}/hide"))
    with naming(name):
        encoded = getattr(module, tower or name)(x, valid=valid, hide=hide, taps=taps, tick=tick.at(name).repeat(views))
    return encoded, views


def statistics(part: str, encoded: Encoded) -> Outputs:
    """The new running statistics of a part under their reserved name, or nothing where it has none."""
    return {} if encoded.statistics is None else {STATISTICS: {part: encoded.statistics}}


def together(*outputs: Outputs) -> Outputs:
    """All outputs in one, with the new statistics of all parts."""
    out: Outputs = {name: x for each in outputs for name, x in each.items()}
    new = {part: x for each in outputs for part, x in each.get(STATISTICS, {}).items()}
    return {**out, STATISTICS: new} if new else out
