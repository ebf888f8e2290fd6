"""Rows of one budget spend it on both sides, by the FLOPs that are traced; rates are swept on other seeds."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxrep.recipe import From
from jaxrep.step.flops import count_flops
from jaxrep.step.shapes import context_shapes, trace_shapes
from results import budgets, lab, sweep
from results.measure import Pieces
from results.rows import EFFECTS


def forward(recipe) -> float:
    """Return the FLOPs of all forward passes of a training."""
    return trace_shapes(recipe).forward_flops / recipe.data.batch_size * recipe.examples


def test_clipa_and_its_baseline_cost_the_same():
    (baseline, _), (method, _) = (EFFECTS["clipa"].side(side, seed=2) for side in ("baseline", "method"))
    first, *others = (origin.source for origin in method.init.values() if isinstance(origin, From))
    assert all(other == first for other in others)
    assert (first.seed, method.seed, baseline.seed) == (2, 2, 2) and not baseline.init
    assert first.examples == budgets.SMALL_STEPS * lab.BATCH and method.examples == budgets.FULL_STEPS * lab.BATCH
    assert forward(first) + forward(method) == pytest.approx(forward(baseline), rel=2e-3)


def test_muon_and_adamw_cost_the_same_in_the_row_of_equal_time():
    def cost(side: str) -> float:
        recipe = EFFECTS["muon_time"].side(side, seed=2)[0]
        shapes = trace_shapes(recipe)
        updater, params = shapes.updater(recipe), dict(shapes.arrays)
        state = jax.eval_shape(updater.init, params)

        def update(grads, state, params, ctx):
            return updater.update(grads, state, params, ctx=ctx, learning_rate=jnp.float32(1e-3))

        own = count_flops(update, params, state, params, context_shapes(recipe))
        return (3 * shapes.forward_flops + own) * recipe.examples

    assert cost("method") == pytest.approx(cost("baseline"), rel=5e-3)


def test_a_sweep_measures_each_side_at_each_rate_with_seeds_that_no_row_uses(tmp_path, monkeypatch):
    effect, seen = EFFECTS["muon"], []

    def measure(self, side, seed, folder, rate=0.0):
        recipe = self.side(side, seed, rate)[0]
        seen.append((side, recipe.seed, recipe.schedule.peak, type(recipe.optimizer).__name__))
        return {next(iter(self.metrics)): rate + seed}

    monkeypatch.setattr(type(effect), "measure", measure)
    means = sweep.sweep(dataclasses.replace(effect, rates=(0.1, 0.2)), tmp_path, Pieces(float("inf")))
    assert means == {side: {0.1: 100.6, 0.2: 100.7} for side in ("baseline", "method")}
    assert not set(sweep.SEEDS) & set(lab.SEEDS)
    kinds = {"baseline": "AdamW", "method": "Muon"}
    assert seen == [(s, seed, rate, kinds[s]) for s in kinds for rate in (0.1, 0.2) for seed in sweep.SEEDS]
