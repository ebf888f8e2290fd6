"""Schedules against their formulas in NumPy, float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.schedules import (
    Constant,
    Cosine,
    Harmonic,
    Linear,
    Ramp,
    Staircase,
    WarmupConstant,
    WarmupCosine,
    WarmupInverseSqrt,
    WarmupLinear,
    WarmupReciprocal,
)
from jaxrep.spec import problems

TOTAL, WARM, COOL = 40, 8, 10
STEPS = np.arange(TOTAL)
RISE = np.minimum((STEPS + 1) / WARM, 1)
SINCE = np.maximum(STEPS - WARM, 0)
DONE = SINCE / (TOTAL - WARM)
FALL = np.minimum((TOTAL - STEPS) / COOL, 1)
HALF_COSINE = (1 + np.cos(np.pi * DONE)) / 2

CASES = {
    "constant": (Constant(value=0.3), np.full(TOTAL, 0.3)),
    "linear": (Linear(start=1.0, end=3.0), 1 + 2 * STEPS / TOTAL),
    "stairs": (Staircase(start=0.3, factor=0.5, every=30), 0.3 * 0.5 ** (STEPS // 30)),
    "harmonic": (Harmonic(start=0.3, epochs=6), 0.3 / (1 + STEPS * 6 // TOTAL)),
    "ramp": (Ramp(start=0.2, end=1.2, steps=10, after=5), 0.2 + np.clip((STEPS - 5) / 10, 0, 1)),
    "jump": (Ramp(start=0.0, end=3.0, after=7), np.where(STEPS < 7, 0.0, 3.0)),
    "cosine": (Cosine(start=0.996, end=1.0), 1 - 0.004 * (1 + np.cos(np.pi * STEPS / TOTAL)) / 2),
    "warm-up and constant": (WarmupConstant(peak=2.0, warmup_steps=WARM), 2 * RISE),
    "warm-up and cosine": (WarmupCosine(peak=2.0, warmup_steps=WARM, end=0.5), RISE * (0.5 + 1.5 * HALF_COSINE)),
    "warm-up and line": (WarmupLinear(peak=2.0, warmup_steps=WARM, end=0.5), RISE * (2 - 1.5 * DONE)),
    "held, then cosine": (
        WarmupCosine(peak=2.0, warmup_steps=WARM, held=0.1),
        np.where(STEPS < WARM, 0.1, 2 * HALF_COSINE),
    ),
    "from a start": (
        WarmupCosine(peak=2.0, warmup_steps=WARM, start=0.4, end=0.5),
        np.where(STEPS < WARM, 0.4 + 1.6 * RISE, 0.5 + 1.5 * HALF_COSINE),
    ),
    "no warm-up": (WarmupLinear(peak=2.0), 2 - 2 * STEPS / TOTAL),
    "reciprocal": (WarmupReciprocal(peak=2.0, warmup_steps=WARM, timescale_steps=5), 2 * RISE * 5 / (5 + SINCE)),
    "inverse square root": (
        WarmupInverseSqrt(peak=2.0, warmup_steps=WARM, timescale_steps=5),
        2 * RISE / np.sqrt(1 + SINCE / 5),
    ),
    "cool-down": (
        WarmupInverseSqrt(peak=2.0, warmup_steps=WARM, cooldown_steps=COOL, timescale_steps=5),
        2 * RISE * FALL / np.sqrt(1 + SINCE / 5),
    ),
}


@pytest.fixture(scope="module")
def found():
    """{case: float32 [TOTAL]}, from one compilation."""

    def values(step):
        ctx = StepContext(step=step, total_steps=TOTAL)
        return {name: schedule(ctx) for name, (schedule, _) in CASES.items()}

    return jax.device_get(jax.jit(jax.vmap(values))(jnp.arange(TOTAL)))


@pytest.mark.parametrize("name", CASES)
def test_a_schedule_follows_its_formula(found, name):
    assert found[name].dtype == jnp.float32
    # A few float32 roundings, of numbers up to 2.
    np.testing.assert_allclose(found[name], CASES[name][1], rtol=2e-6, atol=2e-6)


def test_the_first_step_learns_and_the_last_one_does_too(found):
    np.testing.assert_allclose(found["warm-up and constant"][[0, WARM - 1, WARM]], [2 / WARM, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(found["cool-down"][-1], 2 / COOL / np.sqrt(1 + (TOTAL - 1 - WARM) / 5), rtol=1e-6)
    assert found["no warm-up"][-1] == pytest.approx(2 / TOTAL, rel=1e-5)


def test_a_warm_up_of_no_length_and_one_of_all_steps_are_schedules_too():
    at = StepContext(step=jnp.int32(0), total_steps=4)
    assert float(WarmupCosine(peak=1.0)(at)) == 1.0
    last = StepContext(step=jnp.int32(3), total_steps=4)
    assert float(WarmupCosine(peak=1.0, warmup_steps=4)(last)) == 1.0


def test_negative_length_is_a_problem():
    assert problems(WarmupConstant(peak=1.0, warmup_steps=-1)) == [
        "warmup_steps: expected a number of at least 0, got -1"
    ]


def test_a_held_warm_up_has_no_start():
    assert "replaces the rise" in problems(WarmupConstant(peak=1.0, held=0.1, start=0.2))[0]
