"""Average parameters over updates: averaged weights often evaluate better (Polyak & Juditsky 1992)."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxrep.batch import Array, StepContext
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import spec


@spec
class ParameterAverage:
    """Declare which average of the parameters a run keeps: none, unless these functions are overridden."""

    def init(self, params: Any) -> Any:
        """Return the average before the first update."""

    def update(self, average: Any, params: Any, ctx: StepContext) -> Any:
        """Return the average after an update. ``params`` are the new parameters, ``ctx`` is of that step."""

    def weights(self, average: Any, params: Any) -> Any:
        """Return the parameters that evaluations and export use."""
        return params


@spec
class NoEma(ParameterAverage):
    """Keep no average."""


@spec
class ParameterEma(ParameterAverage):
    """Keep an exponential moving average of the parameters."""

    momentum: Schedule = Constant(value=0.9999)
    """Fraction of the average that an update keeps."""
    warmup: bool = True
    """Whether the momentum is at most (1 + step) / (10 + step), so that the initial values are soon forgotten."""
    evaluate: bool = True
    """Whether evaluations and export use the average instead of the last parameters."""

    def problems(self) -> Iterator[str]:
        if isinstance(self.momentum, Constant) and not 0 <= self.momentum.value < 1:
            yield f"momentum: expected a number of at least 0 and below 1, got {self.momentum.value}"

    def init(self, params: Any) -> Any:
        # A copy: the step donates its state, and one buffer cannot be donated twice.
        return jax.tree.map(jnp.copy, params)

    def update(self, average: Any, params: Any, ctx: StepContext) -> Any:
        momentum = self.momentum(ctx)
        if self.warmup:
            momentum = jnp.minimum(momentum, (1 + ctx.step) / (10 + ctx.step))
        return moving_average(average, params, momentum)

    def weights(self, average: Any, params: Any) -> Any:
        return average if self.evaluate else params


def moving_average(average: Any, new: Any, momentum: Array | float) -> Any:
    """Return ``momentum * average + (1 - momentum) * new`` per leaf; integer leaves take the new value."""

    # As a correction of the average: where both are equal they stay so exactly, whatever the rounding of the momentum.
    def moved(a: Array, x: Array) -> Array:
        return a + (1 - momentum) * (x - a) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(moved, average, new)
