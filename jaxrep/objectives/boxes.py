"""Losses on boxes that are already matched: ``jaxrep.losses.boxes``, bound to outputs by name."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.boxes import box_l1, giou
from jaxrep.objectives.base import Column, Output, SeparableTerm


@dataclass(frozen=True)
class BoxLoss(SeparableTerm):
    """Compute the mean loss over all present boxes of the batch (DETR, arXiv:2005.12872, section A.2)."""

    x: Output
    """Name of the predicted boxes, [B,R,4]; the r-th belongs to the r-th true box."""
    target: Column = "boxes"
    """Field of the true boxes, [B,R,4]."""
    _: KW_ONLY
    kind: Literal["l1", "giou"]
    """The sum of the absolute differences, or 1 - GIoU."""
    present: Column = "region/present"
    """Field bool [B,R]: which boxes exist."""

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        boxes = outputs[self.x].astype(jnp.float32), batch[self.target]
        losses = box_l1(*boxes) if self.kind == "l1" else 1 - giou(*boxes)
        total = jnp.sum(jnp.where(batch[self.present], losses, 0.0), axis=1)
        return total / jnp.maximum(self.example_weights(batch), 1.0)

    def example_weights(self, batch: Batch) -> Array:
        return jnp.sum(batch[self.present], axis=1).astype(jnp.float32)
