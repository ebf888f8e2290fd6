"""Mixing of the rows of a batch (Zhang et al. 2018, mixup, arXiv:1710.09412)."""

from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxrep.batch import Batch, Tick
from jaxrep.spec import spec
from jaxrep.views.several import require
from jaxrep.views.view import View, to_float


@spec
class Mix(View):
    """A further field: each row of one field, mixed with a row of another one (Bandara et al. 2023, section 3).

    ``<out>`` = share * of + (1 - share) * other[partner], with one share and one permutation a step, kept a row as
    ``<out>/share`` float32 [B] and ``<out>/partner`` int32 [B].
    """

    couples_rows: ClassVar[bool] = True

    other: str
    """Field whose rows are mixed in."""
    out: str = "mixed"
    """Name of the new field."""
    alpha: float = 1.0
    """The share is drawn from Beta(alpha, alpha); 1: uniformly."""

    def problems(self) -> Iterator[str]:
        if self.alpha <= 0:
            yield f"alpha is above 0, and not {self.alpha}"

    def __call__(self, batch: Batch, tick: Tick) -> Batch:
        for name in (self.of, self.other):
            require(batch, name, "Mix")
        x, y = to_float(batch[self.of]), to_float(batch[self.other])
        share = jax.random.beta(tick.draw("share"), self.alpha, self.alpha)
        partner = jax.random.permutation(tick.draw("partner"), jnp.arange(len(x), dtype=jnp.int32))
        how = {f"{self.out}/share": jnp.full(len(x), share, jnp.float32), f"{self.out}/partner": partner}
        return {**batch, self.out: share * x + (1 - share) * y[partner], **how}
