"""Compute the objective and its gradient over the whole batch (``step/grad_cache.py`` does it by microbatches)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.data.class_texts import select_tables
from jaxrep.methods.base import BATCH_STATS
from jaxrep.objectives.base import Metrics, Term, evaluate
from jaxrep.params import Arrays, Structure, by_path
from jaxrep.views.base import View

StepOutputs = tuple[Array, Metrics, Outputs, dict[str, Any]]
"""(loss, metrics by name, outputs by name, new running statistics by path)."""


@dataclass(frozen=True)
class Computation:
    """Hold what is differentiated: the views, the structure of the method, and the objective."""

    structure: Structure
    views: tuple[View, ...]
    objective: Mapping[str, Term]

    def augment(self, batch: Batch, ctx: StepContext, *, coupled: bool | None = None) -> Batch:
        """Apply the views to a batch.

        Args:
            batch: the batch.
            ctx: the step context.
            coupled: True applies the views up to the last one that couples rows, False those after it, None all.
        """
        first = max((i + 1 for i, view in enumerate(self.views) if view.couples_rows), default=0)
        for i, view in enumerate(self.views):
            if coupled is None or coupled == (i < first):
                batch = view(batch, ctx.at(f"views/{i}"))
        return batch

    def per_example(self, arrays: Arrays, batch: Batch, ctx: StepContext) -> tuple[Outputs, dict[str, Any]]:
        """Return the per-example outputs, and new batch statistics by path."""
        return pop_batch_stats(self.structure.merge(arrays).per_example(batch, ctx.at("rows")))

    def per_step(self, arrays: Arrays, ctx: StepContext) -> Outputs:
        """Return the outputs that do not lead with B."""
        return self.structure.merge(arrays).per_step(select_tables(arrays), ctx.at("shared"))

    def across_batch(
        self, arrays: Arrays, outputs: Outputs, batch: Batch, ctx: StepContext
    ) -> tuple[Outputs, dict[str, Any]]:
        """Return all outputs, those of the whole batch included, and new batch statistics by path."""
        joined, statistics = pop_batch_stats(self.structure.merge(arrays).across_batch(outputs, batch, ctx.at("join")))
        return {**outputs, **joined}, statistics

    def loss(self, arrays: Arrays, batch: Batch, ctx: StepContext) -> StepOutputs:
        """Return the step outputs of a whole batch."""
        seen = self.augment(batch, ctx)
        outputs, statistics = self.per_example(arrays, seen, ctx)
        outputs, more = self.across_batch(arrays, {**outputs, **self.per_step(arrays, ctx)}, seen, ctx)
        loss, metrics = evaluate(self.objective, outputs, seen, ctx)
        return loss, metrics, outputs, {**statistics, **more}

    def value_and_grad(
        self, params: Arrays, non_trainable: Arrays, batch: Batch, ctx: StepContext
    ) -> tuple[StepOutputs, Arrays]:
        """Return the step outputs, and the gradient with respect to ``params``.

        ``non_trainable`` are the other arrays of the model.
        """

        def loss_of(params: Arrays):
            loss, *others = self.loss({**non_trainable, **params}, batch, ctx)
            return loss, others

        (loss, (metrics, outputs, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        return (loss, metrics, outputs, statistics), gradients


def pop_batch_stats(outputs: Outputs) -> tuple[Outputs, dict[str, Any]]:
    """Split outputs from the batch statistics under the reserved name; return these as arrays by path."""
    outputs = dict(outputs)
    states = outputs.pop(BATCH_STATS, {}).items()
    return outputs, {f"{part}/{path}": leaf[...] for part, state in states for path, leaf in by_path(state).items()}
