"""Views that make several of one, and one of several: the second axis [B,V,...] of a field."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp

from jaxrep.batch import Batch, StepContext, require_fields
from jaxrep.spec import spec
from jaxrep.views.base import View


@spec
class Copy(View):
    """A further field with the same arrays, for views of its own; the first field stays as it is."""

    out: str
    """Name of the new field."""
    count: int = 0
    """Copies of a row, [B,count,...], each of which is changed by draws of its own; 0: one, without a second axis."""

    def problems(self) -> Iterator[str]:
        if self.count < 0:
            yield f"count is a number of copies, or 0 for one without a second axis, and not {self.count}"

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "Copy", self.of)
        x = batch[self.of]
        many = jnp.broadcast_to(x[:, None], (len(x), self.count, *x.shape[1:])) if self.count else x
        return {**batch, self.out: many}


@dataclasses.dataclass(frozen=True)
class Stack(View):
    """Fields of one shape side by side in one, [B,V,...], with what says which of their tokens are real."""

    _: dataclasses.KW_ONLY
    also: tuple[str, ...]
    """Fields that follow the first one; they stay as they are."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        names = (self.of, *self.also)
        require_fields(batch, "Stack", *names)
        suffixes = [suffix for suffix in ("", "/valid") if f"{self.of}{suffix}" in batch]
        stacked = {f"{self.of}{suffix}": jnp.stack([batch[f"{x}{suffix}"] for x in names], 1) for suffix in suffixes}
        return {**batch, **stacked}
