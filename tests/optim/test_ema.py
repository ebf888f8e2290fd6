"""Averages of parameters."""

import jax.numpy as jnp
import numpy as np

from jaxrep.batch import StepContext
from jaxrep.optim.ema import NoEma, ParameterEma
from jaxrep.schedules import Constant, Linear


def _run(ema: ParameterEma, values: list[float]) -> float:
    average = ema.init({"w": jnp.float32(values[0])})
    for step, value in enumerate(values[1:]):
        ctx = StepContext(step=jnp.int32(step), total_steps=len(values) - 1)
        average = ema.update(average, {"w": jnp.float32(value)}, ctx)
    return float(average["w"])


def test_the_average_is_the_sum_weighted_by_powers_of_the_momentum():
    values = [1.0, 5.0, -2.0, 3.0]
    expected = 0.9**3 * 1 + 0.1 * (0.9**2 * 5 + 0.9 * -2 + 3)
    # Three float32 roundings.
    np.testing.assert_allclose(
        _run(ParameterEma(momentum=Constant(value=0.9), warmup=False), values), expected, rtol=1e-6
    )


def test_warm_up_limits_the_momentum_and_a_schedule_moves_it():
    values = [1.0, 5.0, -2.0]
    after_one = 0.1 * 1 + 0.9 * 5
    expected = 2 / 11 * after_one + 9 / 11 * -2
    np.testing.assert_allclose(_run(ParameterEma(), values), expected, rtol=1e-6)
    moved = ParameterEma(momentum=Linear(start=0.0, end=1.0), warmup=False)
    np.testing.assert_allclose(_run(moved, values), 0.5 * 5 + 0.5 * -2, rtol=1e-6)


def test_an_average_of_equal_values_stays_exactly_there():
    assert _run(ParameterEma(momentum=Constant(value=0.9999)), [0.1] * 5) == float(np.float32(0.1))


def test_a_field_says_which_weights_are_evaluated():
    params, average = {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}
    assert ParameterEma().weights(average, params) is average
    assert ParameterEma(evaluate=False).weights(average, params) is params
    assert NoEma().weights(NoEma().update(NoEma().init(params), params, StepContext(step=0)), params) is params


def test_the_first_average_owns_its_memory():
    params = {"w": jnp.ones(2)}
    average = ParameterEma().init(params)
    assert average["w"].unsafe_buffer_pointer() != params["w"].unsafe_buffer_pointer()
