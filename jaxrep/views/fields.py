"""Views that copy a field, or stack several fields along a second axis [B,V,...]."""

import dataclasses

import jax.numpy as jnp

from jaxrep.batch import Batch, StepContext, require_fields
from jaxrep.spec import Natural, spec
from jaxrep.views.base import View


@spec
class CopyField(View):
    """Add a field with the same arrays, for further views; the first field stays unchanged."""

    out: str
    """Name of the new field."""
    count: Natural = 0
    """Copies per row, [B,count,...], each of which other views change by separate draws; 0: one, without this axis."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "CopyField", self.of)
        x = batch[self.of]
        copies = jnp.broadcast_to(x[:, None], (len(x), self.count, *x.shape[1:])) if self.count else x
        return {**batch, self.out: copies}


@dataclasses.dataclass(frozen=True)
class StackFields(View):
    """Stack fields of one shape, and their ``/valid``, in the first field, [B,V,...]."""

    _: dataclasses.KW_ONLY
    others: tuple[str, ...]
    """Fields that follow the first one; they stay unchanged."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        names = (self.of, *self.others)
        require_fields(batch, "StackFields", *names)
        suffixes = [suffix for suffix in ("", "/valid") if f"{self.of}{suffix}" in batch]
        stacked = {f"{self.of}{suffix}": jnp.stack([batch[f"{x}{suffix}"] for x in names], 1) for suffix in suffixes}
        return {**batch, **stacked}
