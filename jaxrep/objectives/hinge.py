"""Terms of hard negatives one by one: ``jaxrep.losses.hinge``, bound to outputs by name."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.hinge import hinge_loss
from jaxrep.objectives.base import Term


@dataclass(frozen=True)
class Hinge(Term):
    """Each row is nearer to its partner than to its own wrong one, by a margin of the cosine."""

    a: str
    """Name of the embedding, [B,D]."""
    b: str
    """Name of the partners, [B,D]."""
    wrong: str
    """Name of the wrong ones, [B,D]; rows without one (``<wrong>/present``) count nothing."""
    _: KW_ONLY
    margin: float = 0.2
    """How much nearer, in cosines."""

    separable: ClassVar[bool] = True

    def problems(self) -> Iterator[str]:
        if not 0 <= self.margin <= 2:
            yield f"margin is a difference of cosines, from 0 to 2, and not {self.margin}"

    @property
    def reads(self) -> tuple[str, ...]:
        return self.embeddings

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.a, self.b, self.wrong)

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        a, right, wrong = (normalize(outputs[name]) for name in self.embeddings)
        return hinge_loss(a, right, wrong, self.margin)

    def example_weights(self, batch: Batch) -> Array:
        weights = super().example_weights(batch)
        for name in self.embeddings:
            weights = weights * batch.get(f"{name}/present", 1.0)
        return weights
