"""Train nested widths of embeddings."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.objectives.base import Metrics, SeparableTerm, Wrapper
from jaxrep.spec import Count


@dataclass(frozen=True)
class Matryoshka(Wrapper, SeparableTerm):
    """Compute a term at several widths, on the first d numbers of each embedding (Kusupati et al. 2022, equation 1).

    It is separable if its term is.
    """

    dims: tuple[Count, ...]
    """The widths d."""
    weights: tuple[float, ...] = ()
    """Factor of each width; empty: 1 each."""

    def problems(self) -> Iterator[str]:
        if not self.dims:
            yield "dims are widths, at least one of them, got ()"
        if self.weights and len(self.weights) != len(self.dims):
            yield f"{len(self.dims)} dims need as many weights, got {len(self.weights)}"
        if not self.term.embeddings:
            yield f"{type(self.term).__name__} names no embeddings that could be cut"

    @property
    def separable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.term.separable

    def widths(self, outputs: Outputs) -> Iterator[tuple[int, float, Outputs]]:
        """Yield (d, factor, outputs cut to d)."""
        for dim, weight in zip(self.dims, self.weights or (1.0,) * len(self.dims), strict=True):
            for name in self.embeddings:
                if outputs[name].shape[-1] < dim:
                    raise ValueError(f"Matryoshka cuts '{name}' to {dim} numbers, and it has {outputs[name].shape[-1]}")
            yield dim, weight, {**outputs, **{name: outputs[name][..., :dim] for name in self.embeddings}}

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        if self.separable:
            return super().__call__(outputs, batch, ctx)
        losses = [(dim, weight, self.term(cut, batch, ctx)[0]) for dim, weight, cut in self.widths(outputs)]
        total = jnp.sum(jnp.stack([weight * loss for _, weight, loss in losses]))
        return total, {f"d{dim}": loss for dim, _, loss in losses}

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        assert isinstance(self.term, SeparableTerm)
        losses = [weight * self.term.per_example(cut, batch, ctx) for _, weight, cut in self.widths(outputs)]
        return sum(losses, jnp.float32(0))

    def example_weights(self, batch: Batch) -> Array:
        assert isinstance(self.term, SeparableTerm)
        return self.term.example_weights(batch)
