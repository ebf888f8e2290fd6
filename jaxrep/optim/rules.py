"""Set learning rates and weight decay by path: per parameter, or per layer of a stack.

Every parameter starts with a rate of 1. Its decay starts at 0 for a vector, a number or a bias (gains of norms, the
logit scale, a class token) and at 1 otherwise (embeddings and positions included). Rules change that in their order; a
later rule wins.
"""

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from jaxrep.batch import Array, StepContext
from jaxrep.paths import STACKED, Layers, PathError, parse, select, stack_of
from jaxrep.schedules import Schedule
from jaxrep.spec import NonNegative, Range, spec


@dataclasses.dataclass(frozen=True)
class Factors:
    """Hold the factors of the learning rate and of the weight decay of a parameter: arrays [], or [depth] in a stack.

    A rate of zero means frozen: no gradient, no decay, no update. ``over``: layers whose rate a schedule multiplies.
    """

    rate: np.ndarray
    decay: np.ndarray
    over: list[tuple[Layers, Schedule]] = dataclasses.field(default_factory=list)

    def rate_at(self, ctx: StepContext) -> Array | np.ndarray:
        """Return the rate's factor at a step: ``rate`` times the schedules of some layers."""
        rate = self.rate
        for layers, schedule in self.over:
            rate = jnp.asarray(rate).at[layers].multiply(schedule(ctx))
        return rate


Table = Mapping[str, Factors]


@spec
class Rule(abc.ABC):
    """Declare a change of the factors of the parameters that a pattern names."""

    path: str
    """Pattern of the parameters: image/**, **/bias, image/blocks[0:6]/**."""

    def problems(self) -> Iterator[str]:
        try:
            parse(self.path)
        except PathError as error:
            yield str(error)

    @abc.abstractmethod
    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        """Change ``table``, which has an entry for every path of ``params`` (anything with a shape)."""


@spec
class LearningRate(Rule):
    """Set the factor of the learning rate. Zero freezes."""

    factor: NonNegative
    """Factor of the schedule's learning rate."""

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        for path, layers in select(self.path, params).items():
            table[path].rate[layers] = self.factor


@spec
class Freeze(Rule):
    """Freeze parameters; a later LearningRate can thaw some of them."""

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        LearningRate(path=self.path, factor=0.0).apply(table, params)


@spec
class LearningRateSchedule(Rule):
    """Multiply the rate by a schedule. A parameter with rate 0 for some steps still has gradients."""

    factor: Schedule
    """Factor of the rate over training."""

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        for path, layers in select(self.path, params).items():
            table[path].over.append((layers, self.factor))


@spec
class WeightDecay(Rule):
    """Set the factor of the weight decay."""

    factor: NonNegative
    """Factor of the optimizer's weight decay."""

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        for path, layers in select(self.path, params).items():
            table[path].decay[layers] = self.factor


@spec
class LayerDecay(Rule):
    """Multiply the rates of an encoder layer by layer, smallest at the input (Bao et al. 2022, BEiT, section 3.2).

    What follows the blocks keeps its rate; block i of ``depth`` has factor ** (depth - i); the embedding, which is
    everything else, has factor ** (depth + 1).
    """

    factor: Annotated[float, Range(above=0, high=1)] = 0.75
    """Ratio of the rates of two neighboring layers."""
    after: tuple[str, ...] = ("norm", "pool")
    """Names, directly below the encoder, of the parts that follow the blocks."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if "*" in self.path or "[" in self.path:
            yield f"LayerDecay acts on one encoder: its path is plain, as 'image', not the pattern '{self.path}'"

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        paths = select(f"{self.path}/**", params)
        stacks = {stack for path in paths if (stack := stack_of(path))}
        if stacks != {f"{self.path}/{STACKED}"}:
            has = ", ".join(sorted(stacks)) or "no stack"
            raise PathError(
                f"LayerDecay needs the one stack '{self.path}/{STACKED}' below '{self.path}', which has {has}"
            )
        depth = next(params[path].shape[0] for path in paths if stack_of(path))
        for path in paths:
            if stack_of(path):
                table[path].rate[...] *= self.factor ** (depth - np.arange(depth))
            elif path.removeprefix(f"{self.path}/").split("/")[0] not in self.after:
                table[path].rate[...] *= self.factor ** (depth + 1)


def factors(rules: Iterable[Rule], params: Mapping[str, Any]) -> dict[str, Factors]:
    """Return the factors of every parameter under ``rules``.

    Args:
        rules: applied in their order.
        params: path -> anything with a shape.

    Raises:
        PathError: a rule names no parameter (the nearest paths are given), or arrays of one stack differ in depth.
    """
    _check_depths(params)
    table = {path: _initial(path, leaf.shape) for path, leaf in params.items()}
    for rule in rules:
        rule.apply(table, params)
    return table


def _initial(path: str, shape: tuple[int, ...]) -> Factors:
    layers, own = (shape[:1], shape[1:]) if stack_of(path) else ((), shape)
    return Factors(np.ones(layers, np.float32), np.full(layers, is_matrix(path, len(own)), np.float32))


def is_matrix(path: str, ndim: int) -> bool:
    """Return whether an array of one layer is no vector, number or bias, which have no decay and no adapted steps."""
    # The biases of attention heads are often kept as [H,D/H]; they are biases all the same.
    return ndim > 1 and path.rsplit("/", 1)[-1] != "bias"


def _check_depths(params: Mapping[str, Any]) -> None:
    depths: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path, leaf in params.items():
        if stack := stack_of(path):
            first, shape = depths.setdefault(stack, (path, leaf.shape))
            if not leaf.shape or leaf.shape[0] != shape[0]:
                raise PathError(
                    f"parameters below '{stack}' lead with the number of layers, but '{first}' has shape {shape} "
                    f"and '{path}' has shape {leaf.shape}"
                )
