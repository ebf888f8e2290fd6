"""Compile the step of a recipe for its devices."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxrep.optim.optimizers import Updater
from jaxrep.recipe import Recipe
from jaxrep.step.flops import count_jaxpr_flops
from jaxrep.step.shapes import Shapes
from jaxrep.step.train_state import TrainState, abstract_state
from jaxrep.step.train_step import Step, abstract_batch, trace_step, with_tokens


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """Run the step that was compiled for the number of tokens of a batch."""

    steps: Mapping[int, Step]
    """Compiled step by number of tokens per text."""
    flops: Mapping[int, float]
    """Floating-point operations of the step over all devices, by number of tokens per text."""
    texts: Sequence[str]
    """Fields of tokens."""

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        return self.steps[self._tokens(batch)](state, batch)

    @property
    def max_flops(self) -> float:
        """Floating-point operations of a step with the longest texts."""
        return self.flops[max(self.flops)]

    def flops_of(self, batch: Any) -> float:
        """Return the floating-point operations of the step on this batch."""
        return self.flops[self._tokens(batch)]

    def _tokens(self, batch: Any) -> int:
        return batch[self.texts[0]].shape[-1] if self.texts else max(self.steps)


def compile_step(
    recipe: Recipe,
    shapes: Shapes,
    updater: Updater,
    total_steps: int,
    mesh: jax.sharding.Mesh,
    state: TrainState | None = None,
) -> CompiledStep:
    """Compile the step from shapes and shardings alone.

    Args:
        recipe: the recipe.
        shapes: shapes of its model and batch.
        updater: its optimizer.
        total_steps: length of training, which schedules read.
        mesh: the devices.
        state: shapes of the state, with shardings; by default ``abstract_state`` makes them.

    Returns:
        One compiled program per number of tokens that the order of the data gives texts.
    """
    state = abstract_state(recipe, shapes, updater, mesh) if state is None else state
    data, whole = recipe.data, abstract_batch(shapes, mesh)
    steps: dict[int, Step] = {}
    flops: dict[int, float] = {}
    for tokens in sorted({data.tokenizer.length, *(data.order.text_lengths if data.texts else ())}):
        batch = with_tokens(whole, data.texts, tokens)
        traced = trace_step(recipe, shapes, updater, total_steps, state, batch)
        steps[tokens], flops[tokens] = traced.lower().compile(), count_jaxpr_flops(traced.jaxpr.jaxpr)
    return CompiledStep(steps, flops, data.texts)
