"""Build optimizers: optax's update directions, with rules by path, scheduled weight decay and one learning rate.

An update is ``-learning_rate * rate * direction``: the learning rate and the factors of the rules stay outside optax.
Encoders stack their layers in one array [depth,...]. Directions that look at a whole array (LAMB's trust ratio,
Adafactor's factored moments and root mean squares) are mapped over that axis, so a stacked model and an unrolled one
are updated alike.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxrep.batch import Array, StepContext
from jaxrep.optim.moments import compact, expanded
from jaxrep.optim.rules import Factors, Rule, factors, is_matrix
from jaxrep.params import Arrays
from jaxrep.paths import stack_of
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import Count, NonNegative, Positive, Range, spec

UNSTACKED = "unstacked"

Decay = Annotated[float, Range(0, below=1)]
"""Fraction of a mean that an update keeps."""


@spec
class Optimizer(abc.ABC):
    """Declare an optimizer; ``direction`` is optax's transformation for the parameters of one layer."""

    weight_decay: Schedule = Constant(value=0.0)
    """Weight decay; the learning rate multiplies it. Vectors (biases, gains) have none unless a rule sets theirs."""
    clip_norm: NonNegative = 0.0
    """Largest norm of the gradient over all trained parameters; longer ones are scaled down. 0: no limit."""
    rules: tuple[Rule, ...] = ()
    """Exceptions by path, applied in their order."""

    @abc.abstractmethod
    def direction(self) -> optax.GradientTransformationExtraArgs:
        """Return the transformation from gradient to direction of ascent, with the extra argument ``decay``."""

    def build(self, params: Mapping[str, Any]) -> "Updater":
        """Return the optimizer of a model. Only the shapes of ``params``, trained or not, are read."""
        return Updater(self, self.direction(), factors(self.rules, params))


@spec
class AdamMoments(Optimizer):
    """Declare the decays of Adam's moments (abstract)."""

    b1: Decay = 0.9
    """Decay of the mean of gradients."""
    b2: Decay = 0.999
    """Decay of the mean of squared gradients."""
    eps: NonNegative = 1e-8
    """Added to the root of the mean square."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """Type in which the moments are kept; bfloat16: with an error term of eight bits each, in 3/4 of the memory."""

    def adam(self) -> optax.GradientTransformation:
        """Return Adam's direction, with the moments as they are kept."""
        adam = optax.scale_by_adam(self.b1, self.b2, self.eps)
        return compact(adam) if self.moments == "bfloat16" else adam


@spec
class AdamW(AdamMoments):
    """Update by Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    clip_updates: bool = False
    """Whether an array's step is shorter where its gradient is larger than its own history says: StableAdamW (Wortsman
    et al. 2023, arXiv:2304.13013, algorithm 2). It prevents spikes of the loss when b2 is high."""

    def direction(self) -> optax.GradientTransformationExtraArgs:
        adam = self.adam()
        return stable(adam, self.b2, self.eps) if self.clip_updates else optax.chain(adam, add_decay())


@spec
class Adam(AdamMoments):
    """Update by Adam with weight decay as an L2 penalty, before the moments (Kingma & Ba 2015, arXiv:1412.6980)."""

    def direction(self) -> optax.GradientTransformationExtraArgs:
        return optax.chain(add_decay(), self.adam())


@spec
class Sgd(Optimizer):
    """Update by stochastic gradient descent with momentum and weight decay as an L2 penalty (PyTorch's SGD)."""

    momentum: Decay = 0.9
    """Decay of the sum of gradients."""
    nesterov: bool = False
    """Whether to look one step of momentum ahead."""

    def direction(self) -> optax.GradientTransformationExtraArgs:
        return optax.chain(add_decay(), optax.trace(self.momentum, self.nesterov))


@spec
class Lamb(AdamMoments):
    """Update by Adam with steps proportional to the norm of each array's weights (You et al. 2020, arXiv:1904.00962).

    Steps of vectors, numbers and biases are those of Adam (released code).
    """

    eps: NonNegative = 1e-6
    """Added to the root of the mean square."""

    def direction(self) -> optax.GradientTransformationExtraArgs:
        return optax.chain(self.adam(), add_decay(), on_matrices(optax.scale_by_trust_ratio()))


@spec
class Lars(Optimizer):
    """Update by SGD with steps proportional to the norm of each array's weights (You et al. 2017, arXiv:1708.03888).

    By default steps of vectors and biases are as long as their gradients (released code of Barlow Twins).
    """

    momentum: Decay = 0.9
    """Decay of the sum of gradients."""
    trust: Positive = 0.001
    """Norm of a step in norms of the weights, before the learning rate."""
    vectors: bool = False
    """Whether this is also so for vectors and biases, except those that are 0 (NVIDIA's LARC, as in SwAV's code)."""

    def direction(self) -> optax.GradientTransformationExtraArgs:
        ratio = optax.scale_by_trust_ratio(trust_coefficient=self.trust)
        return optax.chain(add_decay(), ratio if self.vectors else on_matrices(ratio), optax.trace(self.momentum))


@spec
class Adafactor(Optimizer):
    """Update by Adam with the second moment kept as row and column means (Shazeer & Stern 2018, arXiv:1804.04235)."""

    decay_power: Positive = 0.8
    """At update t the mean of squared gradients decays by 1 - t ** -decay_power."""
    momentum: Decay = 0.0
    """Decay of the mean of directions; 0 keeps none."""
    clip_rms: NonNegative = 1.0
    """Largest root mean square of an array's direction; 0 means no limit."""
    relative: bool = True
    """Whether an array's step is multiplied by the root mean square of its weights; never for vectors and numbers."""
    min_factored: Count = 128
    """Arrays with two axes of at least this size are factored."""
    eps: NonNegative = 1e-30
    """Added to squared gradients."""

    def direction(self) -> optax.GradientTransformationExtraArgs:
        rms = optax.scale_by_factored_rms(
            decay_rate=self.decay_power, min_dim_size_to_factor=self.min_factored, epsilon=self.eps
        )
        return optax.chain(
            rms,
            optax.clip_by_block_rms(self.clip_rms) if self.clip_rms else optax.identity(),
            on_matrices(optax.scale_by_param_block_rms()) if self.relative else optax.identity(),
            optax.ema(self.momentum, debias=False) if self.momentum else optax.identity(),
            add_decay(),
        )


def stable(adam: optax.GradientTransformation, b2: float, eps: float) -> optax.GradientTransformationExtraArgs:
    """Divide Adam's direction, with its weight decay, by the root mean square of gradients over their history.

    It is that of an array's g**2 / max(v, eps**2), with v the second moment after this gradient, without bias; it is
    never less than 1 (Wortsman et al. 2023, arXiv:2304.13013, algorithm 2).
    """
    decayed = optax.chain(adam, add_decay())

    def update(updates, state, params=None, **extra):
        directions, new = decayed.update(updates, state, params, **extra)
        chained: Any = new
        moments = expanded(chained[0])
        history = optax.tree.bias_correction(moments.nu, b2, moments.count)
        rms = jax.tree.map(lambda g, v: jnp.sqrt(jnp.mean(g * g / jnp.maximum(v, eps**2))), updates, history)
        return jax.tree.map(lambda d, r: d / jnp.maximum(1, r), directions, rms), new

    return optax.GradientTransformationExtraArgs(decayed.init, update)


def add_decay() -> optax.GradientTransformationExtraArgs:
    """Add ``decay * parameter``; unlike optax's transformation, each update takes the decay as an argument."""

    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda u, p, d: u + d * p, updates, params, extra["decay"]), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def on_matrices(transformation: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Apply a transformation that multiplies by a norm of the weights to all arrays except vectors, numbers and biases.

    Those may start at 0, as the logarithm of a temperature does, and would stay near it.
    """

    def matrices(leaves: Mapping[str, Any]) -> dict[str, bool]:
        return {path: is_matrix(path, leaf.ndim) for path, leaf in leaves.items()}

    return optax.masked(transformation, matrices)


@dataclasses.dataclass(frozen=True)
class Updater:
    """Update the parameters of one model: pure functions of dictionaries {path: array}.

    The state is {stack: optax's state with a dictionary {path: array} per moment}. In a stack all its arrays, counts
    included, lead with the depth.
    """

    spec: Optimizer
    direction: optax.GradientTransformationExtraArgs
    factors: Mapping[str, Factors]

    @property
    def trained(self) -> frozenset[str]:
        """Paths of the parameters to differentiate: all except those that the rules freeze entirely."""
        return frozenset(path for path, own in self.factors.items() if own.rate.any())

    def init(self, params: Arrays) -> dict[str, Any]:
        """Return the state for the trained parameters."""
        return {stack: _per_layer(self.direction.init, stack)(own) for stack, own in _by_stack(params).items()}

    def update(
        self, grads: Arrays, state: dict[str, Any], params: Arrays, *, ctx: StepContext, learning_rate: Array
    ) -> tuple[Arrays, dict[str, Any], dict[str, Array]]:
        """Return the updates of one step, for ``optax.apply_updates``.

        Args:
            grads: gradients of the trained parameters.
            state: the state of ``init`` or of the last update.
            params: the same parameters.
            ctx: the step context, at which the weight decay is evaluated.
            learning_rate: scalar.

        Returns:
            The updates, the new state, and the metric ``gradient_norm`` before clipping and without frozen layers.
        """
        grads = {path: jnp.where(self._rate(path, g) > 0, g, 0) for path, g in grads.items()}
        norm = optax.global_norm(grads)
        if limit := self.spec.clip_norm:
            grads = jax.tree.map(lambda g: g * (limit / jnp.maximum(norm, limit)), grads)
        weight_decay = self.spec.weight_decay(ctx)
        decay = {path: weight_decay * self.factors[path].decay for path in grads}
        own_params, own_decay = _by_stack(params), _by_stack(decay)

        def direct(grads, state, params, decay):
            return self.direction.update(grads, state, params, decay=decay)

        directions, new = {}, {}
        for stack, own in _by_stack(grads).items():
            found, new[stack] = _per_layer(direct, stack)(own, state[stack], own_params[stack], own_decay[stack])
            directions |= found
        updates = {path: -(learning_rate * self._rate(path, d, ctx)) * d for path, d in directions.items()}
        return updates, new, {"gradient_norm": norm}

    def _rate(self, path: str, leaf: Array, ctx: StepContext | None = None) -> Any:
        """Return the rate's factor (at a step context, or its maximum), shaped to broadcast against the parameter."""
        rate = self.factors[path].rate if ctx is None else self.factors[path].rate_at(ctx)
        return rate.reshape(rate.shape + (1,) * (leaf.ndim - rate.ndim))


def _by_stack(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Group {path: leaf} as {stack: {path: leaf}}; paths outside of stacks share one group."""
    groups: dict[str, dict[str, Any]] = {}
    for path, leaf in leaves.items():
        groups.setdefault(stack_of(path) or UNSTACKED, {})[path] = leaf
    return groups


def _per_layer(function: Callable[..., Any], stack: str) -> Callable[..., Any]:
    """Map ``function`` over the layers of a stack."""
    return function if stack == UNSTACKED else jax.vmap(function)
