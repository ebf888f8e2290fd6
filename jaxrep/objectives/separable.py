"""Terms that are weighted sums over rows: losses of one row, bound to outputs by name."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.boxes import box_l1, giou
from jaxrep.losses.cross_entropy import blockwise_cross_entropy
from jaxrep.losses.metric_learning import hinge_loss
from jaxrep.objectives.base import Column, Embedding, Output, Reads, SeparableTerm
from jaxrep.spec import Range


@dataclass(frozen=True)
class CrossEntropy(SeparableTerm):
    """Classify rows against a shared table of classes; rows with a label below 0 do not count."""

    x: Embedding
    """Name of the features, [B,D]."""
    table: Annotated[str, Reads(outputs=("{}", "{}/bias"), embedding=True)] = "classes"
    """Name of the shared table [K,d]; its bias is ``<table>/bias``. Features are cut to the table's width d."""
    _: KW_ONLY
    label: Column = "label"
    """Field of the labels."""
    label_smoothing: Annotated[float, Range(0, below=1)] = 0.0
    """Share of the target that is spread over all classes."""

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        table, bias = outputs[self.table], outputs[f"{self.table}/bias"]
        x = outputs[self.x][:, : table.shape[1]].astype(jnp.float32)
        with_ones = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
        with_bias = jnp.concatenate([table, bias[:, None]], axis=1)
        return blockwise_cross_entropy(with_ones, with_bias, batch[self.label], label_smoothing=self.label_smoothing)

    def example_weights(self, batch: Batch) -> Array:
        return (batch[self.label] >= 0).astype(jnp.float32)


@dataclass(frozen=True)
class BoxLoss(SeparableTerm):
    """Compute the mean loss over all present boxes of the batch, already matched (DETR, arXiv:2005.12872, A.2)."""

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


@dataclass(frozen=True)
class ActivationNorm(SeparableTerm):
    """Keep activations small: their absolute values, or squares, summed over all units of a row.

    It is the ``activity_regularizer`` of Keras, which divides the sum over a batch by its size.
    """

    x: Annotated[tuple[str, ...], Reads(outputs=("{}",))]
    """Names of the activations, [B,...]."""
    _: KW_ONLY
    kind: Literal["l1", "l2"] = "l1"
    """Absolute values, or squares."""

    def problems(self) -> Iterator[str]:
        if not self.x:
            yield "x names no activations, such as decoder/layers/1: name one at least"

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        rows = [outputs[name].astype(jnp.float32).reshape(len(outputs[name]), -1) for name in self.x]
        return sum((jnp.sum(jnp.abs(x) if self.kind == "l1" else x * x, axis=1) for x in rows), start=jnp.float32(0))
