"""Terms on boxes that are matched already: ``jaxrep.losses.boxes``, bound to outputs by name."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.boxes import box_l1, giou
from jaxrep.objectives.base import Term


@dataclass(frozen=True)
class BoxLoss(Term):
    """The mean loss over all boxes of the batch that are present (DETR's box losses, arXiv:2005.12872, section A.2)."""

    x: str
    """Name of the predicted boxes, [B,R,4], of which the r-th is for the r-th true one."""
    to: str = "boxes"
    """Field of the true boxes, [B,R,4]."""
    _: KW_ONLY
    kind: Literal["l1", "giou"]
    """The sum of the absolute differences, or 1 - GIoU."""
    present: str = "region/present"
    """Field bool [B,R]: which boxes exist."""

    separable: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x,)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.to, self.present)

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        pair = outputs[self.x].astype(jnp.float32), batch[self.to]
        losses = box_l1(*pair) if self.kind == "l1" else 1 - giou(*pair)
        total = jnp.sum(jnp.where(batch[self.present], losses, 0.0), axis=1)
        return total / jnp.maximum(self.example_weights(batch), 1.0)

    def example_weights(self, batch: Batch) -> Array:
        return jnp.sum(batch[self.present], axis=1).astype(jnp.float32)
