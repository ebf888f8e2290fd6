"""Train nested widths of embeddings."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.objectives.base import Metrics, Wrapper


@dataclass(frozen=True)
class Matryoshka(Wrapper):
    """A term at several widths: each embedding cut to its first d numbers, then normalized (Kusupati et al. 2022, eq.
    1)."""

    dims: tuple[int, ...]
    """The widths d."""
    weights: tuple[float, ...] = ()
    """Factor of each width; empty: 1 each."""

    def problems(self) -> Iterator[str]:
        if not self.dims or min(self.dims) < 1:
            yield f"dims are widths, at least one of them and each at least 1, got {self.dims}"
        if self.weights and len(self.weights) != len(self.dims):
            yield f"{len(self.dims)} dims need as many weights, got {len(self.weights)}"
        if not self.term.embeddings:
            yield f"{type(self.term).__name__} names no embeddings that could be cut"

    @property
    def separable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.term.separable

    def widths(self, outputs: Outputs) -> Iterator[tuple[int, float, Outputs]]:
        """(d, factor, outputs cut to d)."""
        for dim, weight in zip(self.dims, self.weights or (1.0,) * len(self.dims), strict=True):
            for name in self.embeddings:
                if outputs[name].shape[-1] < dim:
                    raise ValueError(f"Matryoshka cuts '{name}' to {dim} numbers, and it has {outputs[name].shape[-1]}")
            yield dim, weight, {**outputs, **{name: outputs[name][..., :dim] for name in self.embeddings}}

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        if self.separable:
            return super().__call__(outputs, batch, ctx)
        losses = {dim: (weight, self.term(cut, batch, ctx)[0]) for dim, weight, cut in self.widths(outputs)}
        return jnp.sum(jnp.stack([w * loss for w, loss in losses.values()])), {
            f"d{d}": x for d, (_, x) in losses.items()
        }

    def per_example(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Array:
        return sum(
            (weight * self.term.per_example(cut, batch, ctx) for _, weight, cut in self.widths(outputs)), jnp.float32(0)
        )

    def example_weights(self, batch: Batch) -> Array:
        return self.term.example_weights(batch)
