"""Views that copy a field, stack fields on a second axis [B,V,...], or mix rows in pairs (mixup, arXiv:1710.09412)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxrep.batch import Array, Batch, StepContext, require_fields
from jaxrep.spec import Natural, Positive, spec
from jaxrep.views.base import View, to_float


@spec
class CopyField(View):
    """Add a field with the same arrays and boxes, for further views; the first field stays unchanged."""

    out: str
    """Name of the new field."""
    count: Natural = 0
    """Copies per row, [B,count,...], each of which other views change by separate draws; 0: one, without this axis."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "CopyField", self.of)
        copies = {
            f"{self.out}{suffix}": jnp.broadcast_to(x[:, None], (len(x), self.count, *x.shape[1:])) if self.count else x
            for suffix in ("", "/box")
            if (x := batch.get(f"{self.of}{suffix}")) is not None
        }
        return {**batch, **copies}


@dataclasses.dataclass(frozen=True)
class StackFields(View):
    """Stack fields of one shape, and their ``/valid`` and ``/box``, in the first field, [B,V,...]."""

    _: dataclasses.KW_ONLY
    others: tuple[str, ...]
    """Fields that follow the first one; they stay unchanged."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        names = (self.of, *self.others)
        require_fields(batch, "StackFields", *names)
        suffixes = [suffix for suffix in ("", "/valid", "/box") if f"{self.of}{suffix}" in batch]
        stacked = {f"{self.of}{suffix}": jnp.stack([batch[f"{x}{suffix}"] for x in names], 1) for suffix in suffixes}
        return {**batch, **stacked}


@spec
class BaseMixUp(View):
    """Add ``<out>``, ``<out>/partner`` int32 [B], and ``<out>/share`` float32 [B], the row's own share (abstract)."""

    couples_rows: ClassVar[bool] = True

    out: str = "mixed"
    """Name of the new field."""
    beta: Positive = 1.0
    """Shares are drawn from Beta(beta, beta); 1: uniformly."""

    def added(self, x: Array, y: Array, partner: Array, share: Array) -> dict[str, Array]:
        """Return the three new fields."""
        return {self.out: mix_rows(x, y, partner, share), f"{self.out}/partner": partner, f"{self.out}/share": share}


@spec
class MixUp(BaseMixUp):
    """Mix each row with another row of the same field, by a share per row (``pairing``)."""

    beta: Positive = 2.0
    """Shares are drawn from Beta(beta, beta)."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "MixUp", self.of)
        x = to_float(batch[self.of])
        return {**batch, **self.added(x, x, *pairing(ctx, len(x), self.beta))}


@spec
class MixUpFields(BaseMixUp):
    """Mix each row of one field with a row of another field (Bandara et al. 2023, section 3).

    One share and one permutation per step.
    """

    other: str
    """Field of the partners."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "MixUpFields", self.of, self.other)
        x, y = to_float(batch[self.of]), to_float(batch[self.other])
        share = jax.random.beta(ctx.key("share"), self.beta, self.beta)
        partner = jax.random.permutation(ctx.key("partner"), jnp.arange(len(x), dtype=jnp.int32))
        return {**batch, **self.added(x, y, partner, jnp.full(len(x), share, jnp.float32))}


def pairing(ctx: StepContext, rows: int, beta: float) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """Return a different row for each row, and the row's own share, drawn per row from Beta(beta, beta)."""
    shift = jax.random.randint(ctx.key("partner"), (), 1, max(rows, 2))
    share = jax.vmap(lambda key: jax.random.beta(key, beta, beta))(ctx.keys("share"))
    return ((jnp.arange(rows) + shift) % rows).astype(jnp.int32), share.astype(jnp.float32)


def mix_rows(
    x: Float[Array, "B ..."], y: Float[Array, "B ..."], partner: Int[Array, " B"], share: Float[Array, " B"]
) -> Float[Array, "B ..."]:
    """Return ``share`` times each row of x, plus the rest times its partner, a row of y."""
    share = share.reshape(-1, *(1,) * (x.ndim - 1))
    return share * x + (1 - share) * y[partner]
