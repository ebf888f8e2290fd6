"""Terms bind losses to outputs by name; the objective is their weighted sum.

A term never sees an encoder, and a loss never sees a name. The annotations of a term's fields (``Embedding``,
``Output``, ``Column``, ``Columns``) declare which of them name arrays. A name that no output has may be that of a float
field of the batch, such as a stored embedding (``with_given``). A *separable* term is a weighted sum over rows whose
weights depend on the batch's fields alone: it is computed per microbatch and divided once, by the weight of the whole
batch.
"""

import abc
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.errors import hint
from jaxrep.reads import Column as Column
from jaxrep.reads import Columns as Columns
from jaxrep.reads import Embedding as Embedding
from jaxrep.reads import Output as Output
from jaxrep.reads import Reads as Reads
from jaxrep.reads import read_names
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import spec

Metrics = dict[str, Array]

MAX_GIVEN_AXES = 3
"""Most axes of a given output, [B,V,D]. Pixels have more."""


@spec
class Term(abc.ABC):
    """Declare one summand of the objective (abstract)."""

    weight: Schedule = Constant(value=1.0)
    """Factor of the term in the objective."""

    separable: ClassVar[bool] = False
    """Whether the term is a weighted sum over rows (see ``SeparableTerm``)."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the outputs that the term needs."""
        return read_names(self, lambda reads: reads.outputs)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the batch's fields that the term needs."""
        return read_names(self, lambda reads: reads.columns)

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The outputs whose last axis is an embedding: those that a wrapper such as Matryoshka truncates."""
        return read_names(self, lambda reads: ("{}",) if reads.embedding else ())

    def advice(self, field: str) -> str:
        """Return how to add a missing field, as the end of a sentence that begins with its name; empty: no advice."""
        return ""

    def method_problems(self, method: Any) -> Iterator[str]:
        """Yield a sentence for each reason why the outputs of a method teach the term nothing. ``method``: its spec."""
        return iter(())

    @abc.abstractmethod
    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        """Return the loss, a float32 scalar for the whole batch, and metrics."""


@dataclass(frozen=True)
class SeparableTerm(Term):
    """Declare a term that is a weighted sum over rows (abstract)."""

    separable: ClassVar[bool] = True
    measured: ClassVar[tuple[str, ...]] = ()
    """Names of what ``measures`` returns."""

    @abc.abstractmethod
    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        """Return the loss of each row [B]."""

    def measures(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Metrics:
        """Return numbers of each row [B] whose means, weighted as the loss, are metrics."""
        return {}

    def rows(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> dict[str, Array]:
        """Return the loss of each row under an empty name, and under ``/<name>`` what else is measured of it."""
        measures = self.measures(outputs, batch, ctx)
        return {"": self.per_example(outputs, batch, ctx), **{f"/{name}": x for name, x in measures.items()}}

    def example_weights(self, batch: Batch) -> Array:
        """Return the weight of each row [B], from the batch alone."""
        return jnp.ones(len(batch["position"]), jnp.float32)

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        """Return the weighted means over rows."""
        weights = self.example_weights(batch)
        total = jnp.maximum(jnp.sum(weights), 1e-12)
        means = {end: jnp.sum(x * weights) / total for end, x in self.rows(outputs, batch, ctx).items()}
        return means.pop(""), {end[1:]: x for end, x in means.items()}


@dataclass(frozen=True)
class EmbeddingPair(Term):
    """Declare a term on two embeddings, of which row i belongs to row i, with an inverse temperature (abstract)."""

    a: Embedding
    """Name of the first embedding, [B,D]."""
    b: Embedding
    """Name of the second embedding, [B,D]."""
    _: KW_ONLY
    scale: Output = "scale"
    """Name of the shared inverse temperature."""


@dataclass(frozen=True)
class Wrapper(Term):
    """Declare a term that computes another one, on changed outputs (abstract)."""

    term: Term
    """The wrapped term."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.term.reads + super().reads

    @property
    def needs(self) -> tuple[str, ...]:
        return self.term.needs + super().needs

    @property
    def embeddings(self) -> tuple[str, ...]:
        return self.term.embeddings + super().embeddings

    def method_problems(self, method: Any) -> Iterator[str]:
        return self.term.method_problems(method)


def given_fields(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a batch that may stand for outputs: floats [B], [B,D] or [B,V,D]."""
    floats = {name: x for name, x in batch.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    return {name: x for name, x in floats.items() if len(x.shape) <= MAX_GIVEN_AXES}


def with_given(names: Iterable[str], outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Outputs:
    """Return the outputs, with given fields of the batch for those of ``names`` that no output has.

    A given field has no gradient. Its rows and its ``<name>/present`` are those of an output.
    """
    given = given_fields(batch)
    return {**outputs, **{name: given[name] for name in names if name not in outputs and name in given}}


def evaluate(objective: Mapping[str, Term], outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
    """Return the weighted sum of the terms, and ``loss/<term>`` with the metrics of each term.

    Raises ValueError: a term reads an output that neither the method nor the batch gives, or a field that is missing.
    """
    total = jnp.float32(0)
    metrics: Metrics = {}
    for name, term in objective.items():
        readable = with_given(term.reads, outputs, batch)
        for kind, wanted, arrays in (("output", term.reads, readable), ("field", term.needs, batch)):
            if missing := [x for x in wanted if x not in arrays]:
                known = sorted({*arrays, *given_fields(batch)})
                what = f"objective.{name} reads the {kind} '{missing[0]}', which is missing"
                raise ValueError(f"{what}: {hint(missing[0], known)}")
        loss, term_metrics = term(readable, batch, ctx)
        total += term.weight(ctx) * loss
        metrics |= {f"loss/{name}": loss, **{f"loss/{name}/{key}": value for key, value in term_metrics.items()}}
    return total, metrics


def require_all_rows(term: Term, batch: Batch, *names: str) -> None:
    """Check that no rows of these outputs are absent. Raises ValueError."""
    for name in names:
        if f"{name}/present" in batch:
            who = type(term).__name__
            raise ValueError(f"{who} needs all rows of '{name}', and the batch has '{name}/present': rows are absent")
