"""Schedule numbers over training: a schedule maps a StepContext to a float32 scalar."""

import abc
from collections.abc import Iterator

import jax.numpy as jnp

from jaxrep.batch import Array, StepContext
from jaxrep.spec import Count, Finite, Natural, NonNegative, Positive, spec

__all__ = [
    "Constant",
    "Cosine",
    "Harmonic",
    "Linear",
    "Ramp",
    "Schedule",
    "Staircase",
    "Warmup",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupInverseSqrt",
    "WarmupLinear",
    "WarmupReciprocal",
]


@spec
class Schedule(abc.ABC):
    """Declare a number that may vary over training."""

    @abc.abstractmethod
    def __call__(self, ctx: StepContext) -> Array:
        """Return the value at a step, a float32 scalar."""


@spec
class Constant(Schedule):
    """Keep the same number at every step."""

    value: Finite = 1.0
    """The number."""

    def __call__(self, ctx: StepContext) -> Array:
        return jnp.float32(self.value)


@spec
class Linear(Schedule):
    """Go from start to end in a straight line over the whole training."""

    start: Finite
    """Value at the first step."""
    end: Finite
    """Value at the end of training."""

    def __call__(self, ctx: StepContext) -> Array:
        return jnp.float32(self.start + (self.end - self.start) * ctx.fraction)


@spec
class Ramp(Schedule):
    """Go from start to end in a straight line over some steps; stay constant before and after."""

    start: Finite
    """Value before the ramp."""
    end: Finite
    """Value after the ramp."""
    steps: Natural = 0
    """Length of the ramp in steps; 0: the value jumps."""
    after: Natural = 0
    """Step at which the ramp starts."""

    def __call__(self, ctx: StepContext) -> Array:
        since = ctx.step - self.after
        done = jnp.clip(since / self.steps, 0, 1) if self.steps else since >= 0
        return jnp.float32(self.start + (self.end - self.start) * done)


@spec
class Staircase(Schedule):
    """Multiply by ``factor`` at equal distances."""

    start: Finite
    """First value."""
    factor: NonNegative = 0.1
    """Factor between two values."""
    every: Count
    """Steps per value."""

    def __call__(self, ctx: StepContext) -> Array:
        return self.start * jnp.float32(self.factor) ** (ctx.step // self.every)


@spec
class Cosine(Linear):
    """Go from start to end along half a cosine over the whole training."""

    def __call__(self, ctx: StepContext) -> Array:
        return jnp.float32(self.end + (self.start - self.end) * 0.5 * (1 + jnp.cos(jnp.pi * ctx.fraction)))


@spec
class Harmonic(Schedule):
    """Divide start by the number of the epoch: start, start / 2, start / 3, ..."""

    start: Finite
    """Value during the first epoch."""
    epochs: Count
    """Epochs of the whole training."""

    def __call__(self, ctx: StepContext) -> Array:
        return jnp.float32(self.start / (1 + ctx.step * self.epochs // ctx.total_steps))


@spec
class Warmup(Schedule):
    """Rise linearly to ``peak``, then decay, then, if asked for, fall linearly to zero."""

    peak: Positive
    """Highest value, reached at the end of the warm-up."""
    warmup_steps: Natural = 0
    """Steps of linear rise from ``start``."""
    start: NonNegative = 0.0
    """Value from which the rise starts."""
    held: NonNegative = 0.0
    """Constant value during the warm-up, in place of the rise; 0: it rises."""
    cooldown_steps: Natural = 0
    """Steps of linear fall to zero at the end of training."""

    def problems(self) -> Iterator[str]:
        if self.held and self.start:
            yield f"held = {self.held:g} replaces the rise, and start = {self.start:g} would do nothing: set one"

    @abc.abstractmethod
    def decay(self, ctx: StepContext) -> Array:
        """Return the factor in [0, 1] after the warm-up."""

    def progress(self, ctx: StepContext) -> Array:
        """Return the fraction of the steps after the warm-up that is done."""
        return jnp.clip((ctx.step - self.warmup_steps) / max(ctx.total_steps - self.warmup_steps, 1), 0.0, 1.0)

    def __call__(self, ctx: StepContext) -> Array:
        first = self.held / self.peak if self.held else (ctx.step + 1) / max(self.warmup_steps, 1)
        if self.start:
            first = (self.start + (self.peak - self.start) * first) / self.peak
        rise = jnp.where(ctx.step < self.warmup_steps, first, 1.0)
        fall = jnp.minimum((ctx.total_steps - ctx.step) / self.cooldown_steps, 1.0) if self.cooldown_steps else 1.0
        return jnp.float32(self.peak * rise * fall * self.decay(ctx))


@spec
class WarmupConstant(Warmup):
    """Stay constant after the warm-up."""

    def decay(self, ctx: StepContext) -> Array:
        return jnp.float32(1.0)


@spec
class WarmupCosine(Warmup):
    """Follow half a cosine to ``end`` after the warm-up (Loshchilov & Hutter 2017, SGDR, without restarts)."""

    end: NonNegative = 0.0
    """Value at the end of training."""

    def decay(self, ctx: StepContext) -> Array:
        floor = self.end / self.peak
        return floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * self.progress(ctx)))


@spec
class WarmupLinear(WarmupCosine):
    """Follow a straight line to ``end`` after the warm-up."""

    def decay(self, ctx: StepContext) -> Array:
        return 1 + (self.end / self.peak - 1) * self.progress(ctx)


@spec
class WarmupReciprocal(Warmup):
    """Decay as peak * timescale / (timescale + steps) after the warm-up."""

    timescale_steps: Count
    """Steps after which the value has halved."""

    def decay(self, ctx: StepContext) -> Array:
        return self.timescale_steps / (self.timescale_steps + jnp.maximum(ctx.step - self.warmup_steps, 0))


@spec
class WarmupInverseSqrt(Warmup):
    """Decay as peak / sqrt(1 + steps / timescale) after the warm-up (Zhai et al. 2022, Scaling ViTs)."""

    timescale_steps: Count
    """Steps by which the steps after the warm-up are divided, under the root."""

    def decay(self, ctx: StepContext) -> Array:
        return 1 / jnp.sqrt(1 + jnp.maximum(ctx.step - self.warmup_steps, 0) / self.timescale_steps)
