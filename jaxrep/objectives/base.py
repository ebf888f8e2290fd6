"""Terms bind losses to outputs by name; the objective is their weighted sum.

A term never sees an encoder, and a loss never sees a name. A *separable* term is a weighted sum over rows whose
weights the batch alone decides: it is evaluated inside a microbatch and divided once, by the weight of the whole
batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import spec

Metrics = dict[str, Array]


@spec
class Term:
    """Abstract: one summand of the objective."""

    weight: Schedule = Constant(value=1.0)
    """Factor of the term in the objective."""

    separable: ClassVar[bool] = False
    """Whether the term is a weighted sum over rows (see ``rows`` and ``row_weights``)."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the outputs that the term needs."""
        raise TypeError(f"{type(self).__name__} does not say what it reads")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the batch's fields that the term needs."""
        return ()

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The outputs whose last axis is an embedding: what a wrapper such as Matryoshka truncates."""
        return ()

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        """The loss, a float32 scalar for the whole batch, and metrics."""
        if not self.separable:
            raise TypeError(f"{type(self).__name__} does not say its loss")
        weights = self.example_weights(batch)
        return jnp.sum(self.per_example(outputs, batch, ctx) * weights) / jnp.maximum(jnp.sum(weights), 1e-12), {}

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        """Separable terms: the loss of each row [B]."""
        raise TypeError(f"{type(self).__name__} is not a sum over rows")

    def example_weights(self, batch: Batch) -> Array:
        """Separable terms: the weight of each row [B], from the batch alone."""
        return jnp.ones(len(batch["position"]), jnp.float32)


@dataclass(frozen=True)
class Wrapper(Term):
    """Abstract: a term that evaluates another one, on outputs that it changed."""

    term: Term
    """The term that is evaluated."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.term.reads

    @property
    def needs(self) -> tuple[str, ...]:
        return self.term.needs

    @property
    def embeddings(self) -> tuple[str, ...]:
        return self.term.embeddings


def evaluate(objective: Mapping[str, Term], outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
    """The weighted sum of the terms, and ``loss/<term>`` with each term's own metrics."""
    total = jnp.float32(0)
    metrics: Metrics = {}
    for name, term in objective.items():
        loss, own = term(outputs, batch, ctx)
        total += term.weight(ctx) * loss
        metrics |= {f"loss/{name}": loss, **{f"loss/{name}/{key}": value for key, value in own.items()}}
    return total, metrics


def nonempty(*names: str) -> tuple[str, ...]:
    """The names that are not empty."""
    return tuple(name for name in names if name)
