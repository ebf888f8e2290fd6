"""Terms on the sum of two embeddings (Huang et al. 2024, Structure-CLIP, arXiv:2305.06152)."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.objectives.base import Embedding, Metrics, Wrapper, present_rows


@dataclass(frozen=True)
class Fused(Wrapper):
    """Compute a term on one embedding plus a factor times another one of the same row, both of unit length before.

    Nothing is added to rows for which the other embedding is absent (``<added>/present``).
    """

    x: str
    """Name of the embedding that the term reads, [B,D]."""
    added: Embedding
    """Name of the embedding that is added, [B,D]."""
    _: KW_ONLY
    factor: float = 0.2
    """Factor of the added embedding."""

    def problems(self) -> Iterator[str]:
        if self.x not in self.term.embeddings:
            yield f"the term reads {', '.join(self.term.embeddings)}, and not '{self.x}'"

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        x, added = normalize(outputs[self.x]), self.factor * normalize(outputs[self.added])
        if (present := present_rows(batch, self.added)) is not None:
            added = jnp.where(present[:, None], added, 0.0)
        return self.term({**outputs, self.x: x + added}, batch, ctx)
