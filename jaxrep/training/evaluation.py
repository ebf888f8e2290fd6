"""Evaluations of a run: at their cadence while it trains, all of them at its end."""

import jax

from jaxrep.errors import hint
from jaxrep.evals.base import Eval, run_evals
from jaxrep.model import Model
from jaxrep.step.train_state import TrainState
from jaxrep.training.setup import Setup


def build_model(setup: Setup, state: TrainState) -> Model:
    """The model that evaluations see: averaged weights where the recipe says so."""
    weights = setup.recipe.ema.weights(state.ema, state.params)
    return Model(setup.shapes.structure, {**state.non_trainable, **weights}, setup.shapes.fields, setup.tokenizer)


class Evaluator:
    """Called after every step; runs the evaluations whose cadence it is, and all of them after the last step."""

    def __init__(self, setup: Setup):
        self._setup = setup

    def due(self, step: int) -> tuple[Eval, ...]:
        """The evaluations that follow a step."""
        last = step == self._setup.total_steps
        return tuple(e for e in self._setup.recipe.evals if last or (e.every_steps and step % e.every_steps == 0))

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Metrics by name; empty where no evaluation is due."""
        if not (due := self.due(step)):
            return {}
        found = run_evals(due, build_model(self._setup, jax.block_until_ready(state)))
        best = self._setup.recipe.checkpoint.best
        if best and best not in found and len(due) == len(self._setup.recipe.evals):
            self._setup.say(f"checkpoint.best is '{best}', which no evaluation measures; {hint(best, sorted(found))}")
        return found
