"""Classify rows against a table of classes."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.cross_entropy import blockwise_cross_entropy
from jaxrep.objectives.base import Term


@dataclass(frozen=True)
class CrossEntropy(Term):
    """Classification of rows against a shared table of classes (``jaxrep.losses.cross_entropy``); a label below 0 counts
    nothing."""

    x: str
    """Name of the features, [B,D]."""
    table: str = "classes"
    """Name of the shared table [K,d]; its bias is ``<table>/bias``. Features are cut to the table's width d."""
    _: KW_ONLY
    label: str = "label"
    """Field of the labels."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""

    separable: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x, self.table, f"{self.table}/bias")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.x, self.table)

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        table, bias = outputs[self.table], outputs[f"{self.table}/bias"]
        x = outputs[self.x][:, : table.shape[1]].astype(jnp.float32)
        with_ones = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
        with_bias = jnp.concatenate([table, bias[:, None]], axis=1)
        return blockwise_cross_entropy(with_ones, with_bias, batch[self.label], label_smoothing=self.label_smoothing)

    def example_weights(self, batch: Batch) -> Array:
        return (batch[self.label] >= 0).astype(jnp.float32)
