"""Terms on the sum of two embeddings (Huang et al. 2024, Structure-CLIP, arXiv:2305.06152)."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.objectives.base import Metrics, Wrapper


@dataclass(frozen=True)
class Fused(Wrapper):
    """A term on one embedding plus a factor times another of the same row, both of unit length before.

    Where the other does not exist (``<by>/present``) nothing is added.
    """

    x: str
    """Name of the embedding that the term reads, [B,D]."""
    by: str
    """Name of what is added, [B,D]."""
    _: KW_ONLY
    factor: float = 0.2
    """Its factor."""

    def problems(self) -> Iterator[str]:
        if self.x not in self.term.embeddings:
            yield f"the term reads {', '.join(self.term.embeddings)}, and not '{self.x}'"

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.term.reads, self.by)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (*self.term.embeddings, self.by)

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        x, more = normalize(outputs[self.x]), self.factor * normalize(outputs[self.by])
        if (present := batch.get(f"{self.by}/present")) is not None:
            more = jnp.where(present[:, None], more, 0.0)
        return self.term({**outputs, self.x: x + more}, batch, ctx)
