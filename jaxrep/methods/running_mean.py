"""The running mean of an output, a number that losses read as a scale."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Outputs, StepContext
from jaxrep.methods.state import NonTrainable, StatePart, read_output
from jaxrep.optim.ema import moving_average
from jaxrep.spec import Finite, Part, Share, spec


@spec
class RunningMean(StatePart, Part):
    """Average an output over rows and steps: mean <- m mean + (1 - m) the output's mean in the batch.

    ``self.<part>(x)`` returns the mean with that of ``x``, a step's own output: a float32 scalar without gradient.
    """

    of: str
    """Name of the output, an array of any shape."""
    momentum: Share = 0.99
    """Share m of the old mean that a step keeps."""
    initial: Finite = 0.0
    """The mean before the first step."""

    def build(self, rngs: nnx.Rngs, *, inputs: Any = None) -> nnx.Module:
        return _RunningMean(self)


class _RunningMean(nnx.Module):
    def __init__(self, spec: RunningMean):
        self.spec = spec
        self.value = NonTrainable(jnp.float32(spec.initial))

    def __call__(self, x: Array) -> Array:
        mean = jax.lax.stop_gradient(jnp.mean(x.astype(jnp.float32)))
        return moving_average(self.value[...], mean, self.spec.momentum)

    def update(
        self, method: nnx.Module, outputs: Outputs, batch: Mapping[str, Any], ctx: StepContext
    ) -> dict[str, Array]:
        """Return the new mean. Raises ValueError: the output is missing."""
        return {"value": self(read_output(outputs, self.spec.of, "a running mean"))}
