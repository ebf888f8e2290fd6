"""Classification of rows against a table of classes."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.cross_entropy import blockwise_cross_entropy
from jaxrep.objectives.base import Column, Embedding, Reads, SeparableTerm
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
