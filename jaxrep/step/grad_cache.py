"""Compute the exact gradient of any objective with the activations of one microbatch (GradCache).

Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup. Three passes: ``forward``
computes the per-example outputs of the whole batch without activations; ``head`` computes the objective and its
gradient with respect to these outputs; ``backward`` visits each microbatch again and continues the gradient through the
encoders. Random keys belong to rows, so both visits see the same dropout and views. Per-step outputs (scale, class
texts) are computed once. Separable terms are evaluated within the microbatch, so what they read never exists for the
whole batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.computation import Computation, StepOutputs
from jaxrep.objectives.base import SeparableTerm, evaluate, with_given
from jaxrep.params import Arrays

Keep = Callable[[str], bool]
Rows = tuple[Batch, Array]
"""Fields of rows, and their positions in the order."""
Split = tuple[Outputs, Outputs]
"""Outputs with and without gradients."""


def value_and_grad(
    compute: Computation, params: Arrays, other: Arrays, batch: Batch, ctx: StepContext, *, size: int, keep: Keep
) -> tuple[StepOutputs, Arrays]:
    """Return what ``compute.value_and_grad`` returns, with the activations of ``size`` rows at a time.

    Args:
        compute: the computation to differentiate.
        params: arrays with gradients, by path.
        other: the other arrays, by path.
        batch: the batch.
        ctx: the step context.
        size: rows per microbatch, over all devices.
        keep: tells whether a per-example output exists for the whole batch: terms, methods or state parts read it.
    """
    passes = Passes(compute, other, ctx, keep)
    cut = split_microbatches((compute.augment(batch, ctx, coupled=True), ctx.positions), size)
    outputs, whole_numbers, fields = passes.forward(params, cut)
    shared, pull_shared, fixed = jax.vjp(passes.per_step, params, has_aux=True)
    constant = {**whole_numbers, **fixed}

    joint = jax.value_and_grad(passes.head, argnums=(0, 1, 2), has_aux=True)
    (loss, aux), (pulls, d_shared, gradients) = joint(outputs, shared, params, constant, fields)
    metrics, everything, statistics = aux

    gradients, d_shared, sums = passes.backward((gradients, d_shared), params, (shared, fixed), cut, pulls, fields)
    gradients = jax.tree.map(jnp.add, gradients, pull_shared(d_shared)[0])
    loss += sum((term.weight(ctx) * sums[name] for name, term in passes.separable.items()), jnp.float32(0))
    metrics |= {f"loss/{name}": part for name, part in sums.items()}
    return (loss, metrics, everything, statistics), gradients


@dataclass(frozen=True)
class Passes:
    """Run the passes over one batch."""

    compute: Computation
    non_trainable: Arrays
    ctx: StepContext
    keep: Keep

    @property
    def separable(self) -> Mapping[str, SeparableTerm]:
        terms = self.compute.objective.items()
        return {name: term for name, term in terms if isinstance(term, SeparableTerm) and term.separable}

    def encode(self, params: Arrays, rows: Rows) -> tuple[Outputs, Batch, StepContext]:
        """Return a microbatch's outputs, its fields after the views, and its step context."""
        fields, positions = rows
        here = replace(self.ctx, positions=positions, microbatch=True)
        seen = self.compute.augment(fields, here, coupled=False)
        return self.compute.per_example({**self.non_trainable, **params}, seen, here)[0], seen, here

    def forward(self, params: Arrays, cut: Rows) -> tuple[Outputs, Outputs, Batch]:
        """Return outputs of the whole batch with and without gradients, and its fields."""

        def visit(_, rows):
            outputs, seen, _ = self.encode(params, rows)
            # Of what is seen, only the fields that a term or a join reads are kept: the compiler drops the others.
            return None, (*split_differentiable({name: x for name, x in outputs.items() if self.keep(name)}), seen)

        return merge_microbatches(jax.lax.scan(visit, None, cut)[1])

    def per_step(self, params: Arrays) -> Split:
        """Return per-step outputs with and without gradients."""
        return split_differentiable(self.compute.per_step({**self.non_trainable, **params}, self.ctx))

    def head(self, outputs: Outputs, shared: Outputs, params: Arrays, constant: Outputs, fields: Batch):
        """Return the value of the terms that need the whole batch, and (metrics, all outputs, batch statistics)."""
        terms = {name: term for name, term in self.compute.objective.items() if not term.separable}
        together = {**outputs, **constant, **shared}
        everything, statistics = self.compute.across_batch({**self.non_trainable, **params}, together, fields, self.ctx)
        loss, metrics = evaluate(terms, everything, fields, self.ctx)
        return loss, (metrics, everything, statistics)

    def backward(
        self,
        start: tuple[Arrays, Outputs],
        params: Arrays,
        shared: Split,
        cut: Rows,
        pulls: Outputs,
        fields: Batch,
    ) -> tuple[Arrays, Outputs, dict[str, Array]]:
        """Add the gradients through the encoders to ``start``; return them with each separable term and its metrics."""
        smooth, fixed = shared
        terms = self.separable
        reads = [name for term in terms.values() for name in term.reads]
        totals = {name: jnp.maximum(jnp.sum(term.example_weights(fields)), 1e-12) for name, term in terms.items()}

        def surrogate(params: Arrays, shared: Outputs, rows: Rows, pull: Outputs):
            """Surrogate loss whose gradient equals the objective's for this microbatch (GradCache)."""
            outputs, seen, here = self.encode(params, rows)
            value = sum((jnp.vdot(pull[name], outputs[name].astype(pull[name].dtype)) for name in pull), jnp.float32(0))
            readable = with_given(reads, {**outputs, **fixed, **shared}, seen)
            sums = {
                f"{name}{end}": jnp.sum(x * term.example_weights(seen)) / totals[name]
                for name, term in terms.items()
                for end, x in term.rows(readable, seen, here).items()
            }
            return sum((term.weight(self.ctx) * sums[name] for name, term in terms.items()), value), sums

        def visit(carry, xs):
            (by_params, by_shared), sums = jax.grad(surrogate, argnums=(0, 1), has_aux=True)(params, smooth, *xs)
            return jax.tree.map(jnp.add, carry, (by_params, by_shared, sums)), None

        names = [f"{name}{end}" for name, term in terms.items() for end in ("", *(f"/{x}" for x in term.measured))]
        sums = {name: jnp.float32(0) for name in names}
        return jax.lax.scan(visit, (*start, sums), (cut, split_microbatches(pulls, cut[1].shape[1])))[0]


def split_differentiable(outputs: Outputs) -> Split:
    """Split outputs into those of floating-point type and all others."""
    smooth = {name: x for name, x in outputs.items() if jnp.issubdtype(x.dtype, jnp.inexact)}
    return smooth, {name: x for name, x in outputs.items() if name not in smooth}


def split_microbatches(tree: Any, size: int) -> Any:
    """Split [B,...] into [B/size, size, ...], so that each microbatch has rows of every device.

    Rows lie over the devices in contiguous pieces. Taking every (B/size)-th row gives each device its share of every
    microbatch, so no row moves between devices.
    """
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(size, -1, *x.shape[1:]), 0, 1), tree)


def merge_microbatches(tree: Any) -> Any:
    """Invert ``split_microbatches``."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)
