"""Hold what losses on pairs of rows share: their options, their rows with absent ones, and their weights."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxrep.batch import Array
from jaxrep.losses.pairwise.reduce import pairwise_reduce
from jaxrep.losses.pairwise.scan import Reduction, Rows

Present = tuple[Bool[Array, " B"] | None, Bool[Array, " B"] | None]
Extra = Float[Array, "E D"] | Rows | None
Duplicates = Literal["negative", "ignore", "positive", "supcon", "mil_nce"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PairOptions:
    """Hold what ``info_nce`` and ``pairwise_sigmoid`` take besides the two sides of B pairs."""

    ids: tuple[Int[Array, " B"], ...] = ()
    """Two pairs are duplicates if they are equal in any of these arrays (the same picture, the same name)."""
    duplicates: Duplicates = dataclasses.field(default="negative", metadata={"static": True})
    """How rows of duplicates count; each loss says which values it takes. All but ``negative`` need ids."""
    extra_a: Extra = None
    """Normalized rows [E,D] that are negatives of every row of b (a queue, hard negatives). As ``Rows`` they may be
    absent, or duplicates by ids in the order of ``ids``: then they are no negatives."""
    extra_b: Extra = None
    """Normalized rows [F,D] that are negatives of every row of a."""
    weights: Float[Array, " B"] | None = None
    """Weight of each pair, not negative; the loss is divided by their sum."""
    present: Present = (None, None)
    """Which rows of a and of b exist. An absent row is no negative, and a pair that lacks one has no loss."""
    block_size: int | None = dataclasses.field(default=None, metadata={"static": True})
    """Rows of logits in memory per device; None chooses 512."""

    def rows(
        self, a: Array, b: Array, logit_scale: Array | float, ids: tuple[Array, ...] | None = None
    ) -> tuple[Rows, Rows, tuple[Rows | None, Rows | None]]:
        """Return a times the scale, b, and the extra rows that each of the two meets."""
        ids = self.ids if ids is None else ids
        left, right = (as_rows(x, ids, present) for x, present in zip((a, b), self.present, strict=True))
        left = scale_rows(left, logit_scale)
        return left, right, (extra_rows(self.extra_b), scale_rows(extra_rows(self.extra_a), logit_scale))


DEFAULTS = PairOptions()


def as_rows(
    x: Float[Array, "B D"], ids: tuple[Int[Array, " B"], ...] = (), present: Bool[Array, " B"] | None = None
) -> Rows:
    """Return rows for ``pairwise_reduce``. Absent ones become zeros, so that their values (a NaN) reach no gradient."""
    x = x if present is None else jnp.where(present[:, None], x, 0.0)
    return Rows(jnp.asarray(x, jnp.float32), ids, present)


def extra_rows(x: Extra) -> Rows | None:
    """Return extra rows for ``pairwise_reduce``; None if there are none."""
    rows = x if x is None or isinstance(x, Rows) else Rows(x)
    return None if rows is None or not len(rows.x) else as_rows(*rows)


def reduce_extra(reduction: Reduction, rows: Rows, extra: Rows, *args: Any, **options: Any) -> Float[Array, " B"]:
    """Reduce along ``rows`` the logits against extra rows that are not duplicates."""
    pairs = "non_duplicates" if extra.ids else "all"
    return pairwise_reduce(reduction, rows, extra, *args, pairs=pairs, columns=False, **options)[0]


def scale_rows(rows: Any, logit_scale: Float[Array, ""] | float) -> Any:
    """Multiply rows by the logit scale; outside of ``pairwise_reduce``, so that JAX derives it."""
    return None if rows is None else rows._replace(x=rows.x * logit_scale)


def unit_logits(rows: Rows) -> Rows:
    """Replace rows by ones, so that every logit is 1 and a sum of logits counts pairs."""
    return rows._replace(x=jnp.ones((len(rows.x), 1)))


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
