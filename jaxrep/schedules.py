"""What varies in time: a schedule maps a StepContext to a number (float32 scalar)."""

import jax.numpy as jnp

from jaxrep.batch import Array, StepContext
from jaxrep.spec import spec

__all__ = [
    "Constant",
    "Cosine",
    "Harmonic",
    "Linear",
    "Ramp",
    "Schedule",
    "Stairs",
    "Warmup",
    "WarmupConstant",
    "WarmupCosine",
    "WarmupInverseSqrt",
    "WarmupLinear",
    "WarmupReciprocal",
]


@spec
class Schedule:
    """Abstract: a number that may vary over training."""

    def __call__(self, ctx: StepContext) -> Array:
        raise TypeError(f"{type(self).__name__} is not a schedule: it does not say its value at a step context")


@spec
class Constant(Schedule):
    """The same number at every step."""

    value: float = 1.0
    """The number."""

    def __call__(self, ctx: StepContext) -> Array:
        return jnp.float32(self.value)


@spec
class Linear(Schedule):
    """From start to end in a straight line over the whole training."""

    start: float
    """Value at the first step."""
    end: float
    """Value at the end of training."""

    def __call__(self, ctx: StepContext) -> Array:
        return jnp.float32(self.start + (self.end - self.start) * ctx.fraction)


@spec
class Ramp(Schedule):
    """From start to end in a straight line over some steps; constant before and after them."""

    start: float
    """Value up to the first of the steps."""
    end: float
    """Value after the last of them."""
    steps: int = 0
    """Number of steps; 0: the value jumps."""
    after: int = 0
    """Steps of training before them."""

    def problems(self):
        if self.steps < 0 or self.after < 0:
            yield "steps and after count steps: they are zero or more"

    def __call__(self, ctx: StepContext) -> Array:
        since = ctx.step - self.after
        done = jnp.clip(since / self.steps, 0, 1) if self.steps else since >= 0
        return jnp.float32(self.start + (self.end - self.start) * done)


@spec
class Stairs(Schedule):
    """start, then ``factor`` of it, then ``factor`` of that and so on, at equal distances."""

    start: float
    """Value at first."""
    factor: float = 0.1
    """What the value is multiplied by at each stair."""
    every: int
    """Steps from one to the next."""

    def problems(self):
        if self.every < 1:
            yield f"every counts steps: at least 1, got {self.every}"

    def __call__(self, ctx: StepContext) -> Array:
        return self.start * jnp.float32(self.factor) ** (ctx.step // self.every)


@spec
class Cosine(Schedule):
    """From start to end along half a cosine over the whole training."""

    start: float
    """Value at the first step."""
    end: float
    """Value at the end of training."""

    def __call__(self, ctx: StepContext) -> Array:
        return jnp.float32(self.end + (self.start - self.end) * 0.5 * (1 + jnp.cos(jnp.pi * ctx.fraction)))


@spec
class Harmonic(Schedule):
    """start, start / 2, start / 3 and so on, from epoch to epoch."""

    start: float
    """Value during the first epoch."""
    epochs: int
    """Epochs of the whole training."""

    def problems(self):
        if self.epochs < 1:
            yield f"epochs is at least 1, got {self.epochs}"

    def __call__(self, ctx: StepContext) -> Array:
        return jnp.float32(self.start / (1 + ctx.step * self.epochs // ctx.total_steps))


@spec
class Warmup(Schedule):
    """Abstract: linear warm-up to ``peak``, then a decay, then (if asked for) a linear cool-down to zero."""

    peak: float
    """Highest value, reached at the end of the warm-up."""
    warmup_steps: int = 0
    """Steps of linear rise from zero."""
    held: float = 0.0
    """A constant value during the warm-up, in place of the rise; 0: it rises."""
    cooldown_steps: int = 0
    """Steps of linear fall to zero at the end of training."""

    def problems(self):
        if self.warmup_steps < 0 or self.cooldown_steps < 0:
            yield "warmup_steps and cooldown_steps count steps: they are zero or more"

    def decay(self, ctx: StepContext) -> Array:
        """Factor in [0, 1] after the warm-up."""
        raise TypeError(f"{type(self).__name__} does not say how it decays")

    def progress(self, ctx: StepContext) -> Array:
        """Share of the steps after the warm-up that is done."""
        return jnp.clip((ctx.step - self.warmup_steps) / max(ctx.total_steps - self.warmup_steps, 1), 0.0, 1.0)

    def __call__(self, ctx: StepContext) -> Array:
        first = self.held / self.peak if self.held else (ctx.step + 1) / max(self.warmup_steps, 1)
        rise = jnp.where(ctx.step < self.warmup_steps, first, 1.0)
        fall = jnp.minimum((ctx.total_steps - ctx.step) / self.cooldown_steps, 1.0) if self.cooldown_steps else 1.0
        return jnp.float32(self.peak * rise * fall * self.decay(ctx))


@spec
class WarmupConstant(Warmup):
    """Warm-up, then constant."""

    def decay(self, ctx: StepContext) -> Array:
        return jnp.float32(1.0)


@spec
class WarmupCosine(Warmup):
    """Warm-up, then half a cosine (Loshchilov & Hutter 2017, SGDR, without restarts) to ``end``."""

    end: float = 0.0
    """Value at the end of training."""

    def decay(self, ctx: StepContext) -> Array:
        floor = self.end / self.peak
        return floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * self.progress(ctx)))


@spec
class WarmupLinear(Warmup):
    """Warm-up, then a straight line to ``end``."""

    end: float = 0.0
    """Value at the end of training."""

    def decay(self, ctx: StepContext) -> Array:
        return 1 + (self.end / self.peak - 1) * self.progress(ctx)


@spec
class WarmupReciprocal(Warmup):
    """Warm-up, then peak * timescale / (timescale + steps since)."""

    timescale_steps: int
    """Steps after which the value has halved."""

    def decay(self, ctx: StepContext) -> Array:
        return self.timescale_steps / (self.timescale_steps + jnp.maximum(ctx.step - self.warmup_steps, 0))


@spec
class WarmupInverseSqrt(Warmup):
    """Warm-up, then peak / sqrt(1 + steps since / timescale) (Zhai et al. 2022, Scaling Vision Transformers)."""

    timescale_steps: int
    """Steps in the unit under the root."""

    def decay(self, ctx: StepContext) -> Array:
        return 1 / jnp.sqrt(1 + jnp.maximum(ctx.step - self.warmup_steps, 0) / self.timescale_steps)
