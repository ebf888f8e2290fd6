"""State parts: what a method remembers between steps without a gradient. The first is the moving average of its own
parts."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Outputs, StepContext
from jaxrep.optim.ema import moving_average
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import spec


class NonTrainable(nnx.Variable):
    """A variable that belongs to a state part: saved and restored, and never seen by a gradient or an optimizer."""


@spec
class StatePart:
    """Abstract. Its module has ``update(method, outputs, batch, context) -> {path below the part: new value}``.

    ``update`` runs once a step, after the optimizer, on the whole batch, and not on a skipped step.
    """

    def build(self, rngs: nnx.Rngs, *, inputs: nnx.Module) -> nnx.Module:
        """The module. ``inputs``: the method's module with the other parts built."""
        raise TypeError(f"{type(self).__name__} does not build a module")


@spec
class Ema(StatePart):
    """Exponential moving average of parts of the method: ``self.teacher.image`` is the average of ``self.image``.

    Tarvainen & Valpola 2017, Mean teachers are better role models, section 2: average <- m average + (1 - m) parameter.
    """

    of: tuple[str, ...]
    """Names of the parts that are averaged."""
    momentum: Schedule = Constant(value=0.996)
    """The share m of the old average that stays at a step."""

    if TYPE_CHECKING:

        def __getattr__(self, part: str) -> Any: ...

    def problems(self) -> Iterator[str]:
        if not self.of:
            yield "of names no part: an average of nothing"

    def build(self, rngs: nnx.Rngs, *, inputs: nnx.Module) -> nnx.Module:
        missing = [name for name in self.of if not hasattr(inputs, name)]
        if missing:
            raise ValueError(f"the average of '{missing[0]}' was asked for, and the method has no such part before it")
        return Average(self, inputs)


class Average(nnx.Module):
    """Copies of parts whose variables are all ``NonTrainable``."""

    def __init__(self, spec: Ema, method: nnx.Module):
        self.of = spec.of
        self.momentum = spec.momentum
        for name in spec.of:
            setattr(self, name, non_trainable_copy(getattr(method, name)))

    def update(
        self, method: nnx.Module, outputs: Outputs, batch: Mapping[str, Any], ctx: StepContext
    ) -> dict[str, Array]:
        """New averages, by path below this part."""
        old, now = (
            {
                "/".join((name, *map(str, path))): leaf[...]
                for name in self.of
                for path, leaf in nnx.to_flat_state(nnx.state(getattr(owner, name)))
            }
            for owner in (self, method)
        )
        return moving_average(old, now, self.momentum(ctx))


def non_trainable_copy(part: nnx.Module) -> nnx.Module:
    """A copy of ``part``, in memory of its own, in which every variable is ``NonTrainable``."""
    copy = nnx.clone(part)
    for _, module in list(nnx.iter_modules(copy)):
        for name, value in list(vars(module).items()):
            if isinstance(value, nnx.Variable):
                setattr(module, name, NonTrainable(jnp.copy(value[...])))
    return copy
