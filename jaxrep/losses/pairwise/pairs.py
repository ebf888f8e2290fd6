"""Hold what losses on pairs of rows share: their options, their rows with absent ones, and their weights."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxrep.batch import Array
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import Reduction, Rows

Present = tuple[Bool[Array, " B"] | None, Bool[Array, " B"] | None]
Extra = Float[Array, "E D"] | Rows | None
RowExtra = Float[Array, "B M D"] | Rows | None
Duplicates = Literal["negative", "ignore", "positive", "supcon", "mil_nce"]


class Side(NamedTuple):
    """Hold the rows of one side, and the rows that they meet beside those of the other side."""

    plain: Rows
    """The rows."""
    rows: Rows
    """The rows as they meet the other side: those of a have the logit scale."""
    extra: Rows | None
    """Rows that all rows of this side meet; those that meet b have the logit scale."""
    row_extra: Rows | None
    """Rows [B,M,D] of which each row of this side meets its own M."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairOptions:
    """Hold what ``info_nce`` and ``pairwise_sigmoid`` take besides the two sides of B pairs."""

    ids: tuple[Int[Array, " B"], ...] = ()
    """Two pairs are duplicates if they are equal in any of these arrays (the same picture, the same name). A negative
    id is that of no other row."""
    duplicates: Duplicates = dataclasses.field(default="negative", metadata={"static": True})
    """How rows of duplicates count; each loss says which values it takes. All but ``negative`` need ids."""
    extra_a: Extra = None
    """Normalized rows [E,D] that are negatives of every row of b (a queue, hard negatives). As ``Rows`` they may be
    absent, or duplicates by ids in the order of ``ids``: then they are no negatives."""
    extra_b: Extra = None
    """Normalized rows [F,D] that are negatives of every row of a."""
    row_extra_a: RowExtra = None
    """Normalized rows [B,M,D], of which the i-th M are negatives of row i of b alone. As ``Rows``, with ``present``
    [B,M], some may be absent."""
    row_extra_b: RowExtra = None
    """Normalized rows [B,M,D], of which the i-th M are negatives of row i of a alone."""
    weights: Float[Array, " B"] | None = None
    """Weight of each pair, not negative; the loss is divided by their sum."""
    present: Present = (None, None)
    """Which rows of a and of b exist. An absent row is no negative, and a pair that lacks one has no loss."""
    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})
    """Rows of logits in memory per device; None chooses 512."""

    @property
    def extras(self) -> tuple[str, ...]:
        """Return the names of the extra rows that are given."""
        names = ("extra_a", "extra_b", "row_extra_a", "row_extra_b")
        return tuple(name for name in names if extra_rows(getattr(self, name)) is not None)

    def sides(
        self, a: Array, b: Array, logit_scale: Array | float, ids: tuple[Array, ...] | None = None
    ) -> tuple[Side, Side]:
        """Return both sides. ``ids``: those of the pairs, in place of ``self.ids``."""
        ids = tuple(map(distinct_ids, self.ids if ids is None else ids))
        left, right = (as_rows(x, ids, present) for x, present in zip((a, b), self.present, strict=True))
        met_by_b = (scale_rows(extra_rows(x), logit_scale) for x in (self.extra_a, self.row_extra_a))
        return (
            Side(left, scale_rows(left, logit_scale), extra_rows(self.extra_b), extra_rows(self.row_extra_b)),
            Side(right, right, *met_by_b),
        )


DEFAULTS = PairOptions()


def as_rows(
    x: Float[Array, "B D"], ids: tuple[Int[Array, " B"], ...] = (), present: Bool[Array, " B"] | None = None
) -> Rows:
    """Return rows for ``pairwise_reduce``. Absent ones become zeros, so that their values (a NaN) reach no gradient."""
    x = x if present is None else jnp.where(present[..., None], x, 0.0)
    return Rows(jnp.asarray(x, jnp.float32), ids, present)


def distinct_ids(ids: Int[Array, " B"]) -> Int[Array, " B"]:
    """Replace negative ids, which stand for none, by ids that no other row has."""
    if jnp.issubdtype(ids.dtype, jnp.unsignedinteger):
        return ids
    return jnp.where(ids < 0, -2 - jnp.arange(len(ids), dtype=jnp.int32), ids)


def extra_rows(x: Extra | RowExtra) -> Rows | None:
    """Return extra rows for reductions; None if there are none."""
    rows = x if x is None or isinstance(x, Rows) else Rows(x)
    if rows is None or not rows.x.size:
        return None
    return as_rows(rows.x, tuple(jnp.where(ids < 0, -1, ids) for ids in rows.ids), rows.present)


def reduce_extra(reduction: Reduction, rows: Rows, extra: Rows, *args: Any, **options: Any) -> Float[Array, " B"]:
    """Reduce along ``rows`` the logits against extra rows that are not duplicates."""
    pairs = "non_duplicates" if extra.ids else "all"
    return pairwise_reduce(reduction, rows, extra, *args, pairs=pairs, columns=False, **options)[0]


def reduce_row_extra(
    reduction: Reduction, rows: Rows, extra: Rows, bias: Float[Array, ""] | None = None
) -> Float[Array, " B"]:
    """Reduce the logits of each row against its own present extra rows [B,M,D]."""
    logits = jnp.einsum("bd,bmd->bm", rows.x, extra.x, precision=jax.lax.Precision.HIGHEST)
    logits = logits if bias is None else logits + bias
    if extra.present is not None:
        logits = jnp.where(extra.present, logits, reduction.excluded)
    return reduction.value(reduction.statistics(logits, 1))


def scale_rows(rows: Any, logit_scale: Float[Array, ""] | float) -> Any:
    """Multiply rows by the logit scale; outside of ``pairwise_reduce``, so that JAX derives it."""
    return None if rows is None else rows._replace(x=rows.x * logit_scale)


def unit_logits(rows: Any) -> Any:
    """Replace rows by ones, so that every logit is 1 and a sum of logits counts pairs."""
    return None if rows is None else rows._replace(x=jnp.ones((*rows.x.shape[:-1], 1)))


def row_weights(
    count: int, weights: Float[Array, " B"] | None, *present: Bool[Array, " B"] | None
) -> Float[Array, " B"]:
    """Return float32 weights of rows (1 by default): 0 where one of ``present`` is false."""
    weights = jnp.ones(count) if weights is None else weights.astype(jnp.float32)
    for mask in present:
        weights = weights if mask is None else jnp.where(mask, weights, 0.0)
    return weights


def weighted_sum(losses: Float[Array, " B"], weights: Float[Array, " B"]) -> Float[Array, ""]:
    """Return the weighted sum. A loss of weight 0 may be anything, NaN too: it is left out, and so is its gradient."""
    return jnp.sum(jnp.where(weights == 0, 0.0, weights * losses))


def weighted_mean(losses: Float[Array, " B"], weights: Float[Array, " B"]) -> Float[Array, ""]:
    """Return the weighted sum divided by the sum of the weights; 0 if that is 0."""
    return divide_by_sum(weighted_sum(losses, weights), weights)


def divide_by_sum(total: Float[Array, ""], weights: Float[Array, " B"]) -> Float[Array, ""]:
    """Divide ``total`` by the sum of the weights; 0, with gradient 0, if that is 0."""
    divisor = jnp.sum(weights)
    return jnp.where(divisor > 0, total / jnp.where(divisor > 0, divisor, 1.0), 0.0)
