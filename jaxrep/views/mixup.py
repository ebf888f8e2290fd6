"""Rows of a batch mixed with rows of it (Zhang et al. 2018, mixup, arXiv:1710.09412)."""

from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array, Batch, StepContext, require_fields
from jaxrep.spec import spec
from jaxrep.views.base import View, to_float


@spec
class RowMix(View):
    """Abstract: adds ``<out>``, and how it was mixed: ``<out>/partner`` int32 [B] and ``<out>/share`` float32 [B], the
    share of the row itself."""

    couples_rows: ClassVar[bool] = True

    out: str = "mixed"
    """Name of the new field."""
    beta: float = 1.0
    """Shares are drawn from Beta(beta, beta); 1: uniformly."""

    def problems(self) -> Iterator[str]:
        if self.beta <= 0:
            yield f"beta is the parameter of a Beta distribution: above 0, got {self.beta}"

    def added(self, x: Array, y: Array, partner: Array, share: Array) -> dict[str, Array]:
        """The three new fields."""
        return {self.out: mix_rows(x, y, partner, share), f"{self.out}/partner": partner, f"{self.out}/share": share}


@spec
class MixUp(RowMix):
    """Each row of one field, mixed with a row of another one (Bandara et al. 2023, section 3).

    One share and one permutation a step.
    """

    other: str
    """Field whose rows are mixed in."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "MixUp", self.of, self.other)
        x, y = to_float(batch[self.of]), to_float(batch[self.other])
        share = jax.random.beta(ctx.key("share"), self.beta, self.beta)
        partner = jax.random.permutation(ctx.key("partner"), jnp.arange(len(x), dtype=jnp.int32))
        return {**batch, **self.added(x, y, partner, jnp.full(len(x), share, jnp.float32))}


@spec
class MixUpWithin(RowMix):
    """Each row of a field, mixed with another row of the same one, by a share of its own (``pairing``)."""

    beta: float = 2.0
    """Shares are drawn from Beta(beta, beta)."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "MixUpWithin", self.of)
        x = to_float(batch[self.of])
        return {**batch, **self.added(x, x, *pairing(ctx, len(x), self.beta))}


def pairing(ctx: StepContext, rows: int, beta: float) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Another row for each row, and the share of the row itself: Beta(beta, beta), drawn for each."""
    shift = jax.random.randint(ctx.key("partner"), (), 1, max(rows, 2))
    share = jax.vmap(lambda key: jax.random.beta(key, beta, beta))(ctx.keys("share"))
    return ((jnp.arange(rows) + shift) % rows).astype(jnp.int32), share.astype(jnp.float32)


def mix_rows(
    x: Float[Array, "B ..."], y: Float[Array, "B ..."], partner: Int[Array, " B"], share: Float[Array, " B"]
) -> Float[Array, "B ..."]:
    """``share`` of each row of x, and the rest of its partner, a row of y."""
    share = share.reshape(-1, *(1,) * (x.ndim - 1))
    return share * x + (1 - share) * y[partner]
