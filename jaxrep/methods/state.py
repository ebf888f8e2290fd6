"""State parts: what a method keeps between steps without a gradient, such as the moving average of its parts."""

import abc
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Outputs, StepContext
from jaxrep.errors import hint
from jaxrep.optim.ema import moving_average
from jaxrep.params import by_path
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import spec


class NonTrainable(nnx.Variable):
    """Hold a value of a state part: saved and restored, without gradient or optimizer state."""


@spec
class StatePart(abc.ABC):
    """Declare a state part (abstract).

    Its module has ``update(method, outputs, batch, ctx) -> {path below the part: new value}``. It runs once per step,
    after the optimizer, on the whole batch, and not on a skipped step.
    """

    @abc.abstractmethod
    def build(self, rngs: nnx.Rngs, *, inputs: Any) -> nnx.Module:
        """Return the module. ``inputs``: mostly the method's module with the other parts built (``Method.parts``)."""

    def start(self, built: nnx.Module, method: nnx.Module) -> None:  # noqa: B027, as most parts change nothing
        """Change initial values of the method's other parts, once all are built. ``built``: this part's module."""


def read_output(outputs: Outputs, name: str, reader: str) -> Array:
    """Return an output that a state part reads. ``reader``: as ``a queue``. Raises ValueError: it is missing."""
    if name not in outputs:
        raise ValueError(f"{reader} reads the output '{name}', which is missing: {hint(name, sorted(outputs))}")
    return outputs[name]


def state_parts(method: Any) -> list[str]:
    """Return the names of a method's state parts. ``method``: its spec."""
    return [name for name, value in vars(method).items() if isinstance(value, StatePart)]


@spec
class Teacher(StatePart):
    """Declare what holds parts of the method a second time: ``self.teacher.image`` beside ``self.image`` (abstract)."""

    of: tuple[str, ...]
    """Names of the parts."""

    if TYPE_CHECKING:

        def __getattr__(self, part: str) -> Any: ...

    def problems(self) -> Iterator[str]:
        if not self.of:
            yield "of names one part at least"


@spec
class Ema(Teacher):
    """Average parts of the method exponentially: ``self.teacher.image`` is the average of ``self.image``.

    Tarvainen & Valpola 2017, Mean teachers are better role models, section 2: average <- m average + (1 - m) parameter.
    """

    of: tuple[str, ...]
    """Names of the averaged parts."""
    momentum: Schedule = Constant(value=0.996)
    """Share m of the old average that a step keeps."""

    def build(self, rngs: nnx.Rngs, *, inputs: nnx.Module) -> nnx.Module:
        if missing := [name for name in self.of if getattr(inputs, name, None) is None]:
            raise ValueError(f"the method has no part '{missing[0]}' to average")
        return Average(self, inputs)


class Average(nnx.Module):
    """Hold copies of parts whose variables are all ``NonTrainable``."""

    def __init__(self, spec: Ema, method: nnx.Module):
        self.momentum = spec.momentum
        for name in spec.of:
            setattr(self, name, non_trainable_copy(getattr(method, name)))

    def update(
        self, method: nnx.Module, outputs: Outputs, batch: Mapping[str, Any], ctx: StepContext
    ) -> dict[str, Array]:
        """Return new averages by path below this part."""
        averages, parameters = (by_path(nnx.state(owner)) for owner in (self, method))
        old, new = ({path: leaves[path][...] for path in averages} for leaves in (averages, parameters))
        return moving_average(old, new, self.momentum(ctx))


def non_trainable_copy(part: nnx.Module) -> nnx.Module:
    """Return a copy of ``part`` with separate memory, in which every variable is ``NonTrainable``."""
    copy = nnx.clone(part)
    for _, module in list(nnx.iter_modules(copy)):
        for name, value in list(vars(module).items()):
            if isinstance(value, nnx.Variable):
                setattr(module, name, NonTrainable(jnp.copy(value[...])))
    return copy
