"""Rules by path: how fast each parameter, or each layer of a stack, learns and decays.

Every parameter starts with a rate of 1. Its decay starts, as the habit of the field has it, at 0 if it is a vector, a
number or a bias (so gains of norms, the logit scale and a class token are spared) and at 1 otherwise (so embeddings
and positions decay). Rules change that in their order; a later one wins.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrep.batch import Array, StepContext
from jaxrep.paths import STACKED, Layers, PathError, parse, select, stack_of
from jaxrep.schedules import Schedule
from jaxrep.spec import spec


@dataclasses.dataclass(frozen=True)
class Factors:
    """What multiplies the learning rate and the weight decay of one parameter: arrays [], or [depth] in a stack.

    A rate of zero means frozen: no gradient, no decay, no update. ``over``: layers whose rate a schedule multiplies.
    """

    rate: np.ndarray
    decay: np.ndarray
    over: list[tuple[Layers, Schedule]] = dataclasses.field(default_factory=list)

    def rate_at(self, ctx: StepContext) -> Array | np.ndarray:
        """The rate's factor at a moment: ``rate`` times what the schedules of some layers say."""
        rate = self.rate
        for layers, schedule in self.over:
            rate = jnp.asarray(rate).at[layers].multiply(schedule(ctx))
        return rate


Table = Mapping[str, Factors]


@spec
class Rule:
    """Abstract: changes the factors of the parameters that it names."""

    path: str
    """Which parameters, as a pattern: image/**, **/bias, image/blocks[0:6]/**."""

    def problems(self) -> Iterator[str]:
        try:
            parse(self.path)
        except PathError as error:
            yield str(error)

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        """Writes into ``table``, which has an entry for every path of ``params`` (anything with a shape)."""
        raise TypeError(f"{type(self).__name__} does not say what it changes")


@spec
class LearningRate(Rule):
    """Sets the factor of the learning rate. Zero freezes."""

    factor: float
    """What the schedule's learning rate is multiplied by."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.factor < 0:
            yield f"factor multiplies the learning rate: it is zero or more, not {self.factor}"

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        for path, layers in select(self.path, params).items():
            table[path].rate[layers] = self.factor


@spec
class Freeze(Rule):
    """Freezes; a later Rate can thaw a part again."""

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        LearningRate(path=self.path, factor=0.0).apply(table, params)


@spec
class LearningRateSchedule(Rule):
    """Multiplies the rate by a schedule, as of a layer that stands still at first: it has a gradient all the time."""

    factor: Schedule
    """What the rate is multiplied by, over training."""

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        for path, layers in select(self.path, params).items():
            table[path].over.append((layers, self.factor))


@spec
class WeightDecay(Rule):
    """Sets the factor of the weight decay."""

    factor: float
    """What the optimizer's weight decay is multiplied by."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.factor < 0:
            yield f"factor multiplies the weight decay: it is zero or more, not {self.factor}"

    def apply(self, table: Table, params: Mapping[str, Any]) -> None:
        for path, layers in select(self.path, params).items():
            table[path].decay[layers] = self.factor


@spec
class LayerDecay(Rule):
    """Multiplies the rates of an encoder layer by layer, smallest at the input (Bao et al. 2022, BEiT, section 3.2).

    What follows the blocks keeps its rate; block i of ``depth`` has factor ** (depth - i); the embedding, which is
    everything else, has factor ** (depth + 1).
    """

    factor: float = 0.75
    """Ratio of the rates of two neighboring layers."""
    after: tuple[str, ...] = ("norm", "pool")
    """Names, directly below the encoder, of what follows the blocks."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 < self.factor <= 1:
            yield f"factor is a ratio of rates in (0, 1], not {self.factor}"
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
    """The factors of every parameter under ``rules``.

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
    # The biases of attention heads are often kept as [H,D/H]; they are biases all the same.
    spared = len(own) <= 1 or path.rsplit("/", 1)[-1] == "bias"
    return Factors(rate=np.ones(layers, np.float32), decay=np.full(layers, not spared, np.float32))


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
