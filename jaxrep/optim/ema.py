"""Averages of parameters over the updates: weights that evaluate better than the last ones (Polyak & Juditsky 1992)."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxrep.batch import Array, StepContext
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import spec


@spec
class ParameterAverage:
    """Abstract: which average of the parameters a run keeps."""

    def init(self, params: Any) -> Any:
        """The average before the first update."""
        raise TypeError(f"{type(self).__name__} does not say how its average starts")

    def update(self, average: Any, params: Any, ctx: StepContext) -> Any:
        """The average after an update. ``params``: new parameters; ``ctx``: of the step that made them."""
        raise TypeError(f"{type(self).__name__} does not say how it averages")

    def weights(self, average: Any, params: Any) -> Any:
        """The parameters that evals and export use."""
        raise TypeError(f"{type(self).__name__} does not say which weights to evaluate")


@spec
class NoEma(ParameterAverage):
    """Keeps no average."""

    def init(self, params: Any) -> Any:
        return None

    def update(self, average: Any, params: Any, ctx: StepContext) -> Any:
        return None

    def weights(self, average: Any, params: Any) -> Any:
        return params


@spec
class ParameterEma(ParameterAverage):
    """Exponential moving average of the parameters."""

    momentum: Schedule = Constant(value=0.9999)
    """Share of the average that an update keeps."""
    warmup: bool = True
    """Whether the momentum is at most (1 + step) / (10 + step), so that the initial values are soon forgotten."""
    evaluate: bool = True
    """Whether evals and export use the average, and not the last parameters."""

    def problems(self) -> Iterator[str]:
        if isinstance(self.momentum, Constant) and not 0 <= self.momentum.value < 1:
            yield f"momentum is the share of the average that is kept, in [0, 1), not {self.momentum.value}"

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
    """``momentum * average + (1 - momentum) * new``, leaf by leaf; of what is no float (a count), the new value."""

    # As a correction of the average: where both are equal they stay so exactly, whatever the rounding of the momentum.
    def moved(a: Array, x: Array) -> Array:
        return a + (1 - momentum) * (x - a) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(moved, average, new)
