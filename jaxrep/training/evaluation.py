"""Evaluate a run: each evaluation at its own cadence while it trains, all of them at its end."""

import logging

import jax

from jaxrep.errors import hint
from jaxrep.evals.base import Eval, run_evals
from jaxrep.model import Model
from jaxrep.step.train_state import TrainState
from jaxrep.training.setup import Setup

LOG = logging.getLogger(__name__)


def build_model(setup: Setup, state: TrainState) -> Model:
    """Return the model that evaluations read: with averaged weights if the recipe says so."""
    weights = setup.recipe.ema.weights(state.ema, state.params)
    return Model(setup.shapes.structure, {**state.non_trainable, **weights}, setup.shapes.fields, setup.tokenizer)


class Evaluator:
    """Run the evaluations that are due after a step; after the last step, all of them."""

    def __init__(self, setup: Setup):
        self._setup = setup

    def due(self, step: int) -> tuple[Eval, ...]:
        """Return the evaluations that follow a step."""
        last = step >= self._setup.total_steps
        return tuple(e for e in self._setup.recipe.evals if last or (e.every_steps and step % e.every_steps == 0))

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Return metrics by name; none if no evaluation is due."""
        if not (due := self.due(step)):
            return {}
        metrics = run_evals(due, build_model(self._setup, jax.block_until_ready(state)))
        best = self._setup.recipe.checkpoint.best
        if best and best not in metrics and len(due) == len(self._setup.recipe.evals):
            LOG.warning("checkpoint.best is '%s', which no evaluation measures; %s", best, hint(best, sorted(metrics)))
        return metrics
