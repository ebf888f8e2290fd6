"""Terms with one hard negative per row: ``jaxrep.losses.hinge_loss``, bound to outputs by name."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.hinge import hinge_loss
from jaxrep.objectives.base import Embedding, SeparableTerm
from jaxrep.spec import Range


@dataclass(frozen=True)
class Hinge(SeparableTerm):
    """Make each row more similar to its partner than to its hard negative, by a margin of the cosine."""

    a: Embedding
    """Name of the embedding, [B,D]."""
    b: Embedding
    """Name of the partners, [B,D]."""
    negative: Embedding
    """Name of the hard negatives, [B,D]; rows without one (``<negative>/present``) do not count."""
    _: KW_ONLY
    margin: Annotated[float, Range(0, 2)] = 0.2
    """Smallest difference of the cosines that has no loss."""

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        a, positive, negative = (normalize(outputs[name]) for name in (self.a, self.b, self.negative))
        return hinge_loss(a, positive, negative, self.margin)

    def example_weights(self, batch: Batch) -> Array:
        weights = super().example_weights(batch)
        for name in self.embeddings:
            weights = weights * batch.get(f"{name}/present", 1.0)
        return weights
