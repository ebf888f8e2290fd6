"""Terms that compute another term on changed outputs: nested widths, inner layers, sums, views, components."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Annotated

import jax
import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.distillation import softmax_divergence
from jaxrep.losses.pca import reconstruct_from_pca
from jaxrep.objectives.base import Embedding, Metrics, Reads, SeparableTerm, Term, Wrapper, require_all_rows
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.spec import Count, Finite, Positive


@dataclass(frozen=True)
class Matryoshka(Wrapper, SeparableTerm):
    """Compute a term at several widths, on the first d numbers of each embedding (Kusupati et al. 2022, equation 1).

    It is separable if its term is.
    """

    dims: tuple[Count, ...]
    """The widths d."""
    weights: tuple[Finite, ...] = ()
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


def sampled_layer(ctx: StepContext, depth: int) -> Array:
    """Draw the layer of this step, int32 from 0 to depth - 2: any but the last, the same one for every term."""
    if depth < 2:
        raise ValueError("a layer before the last is sampled, and the encoder has one layer only: give it more")
    return jax.random.randint(ctx.key("sampled layer"), (), 0, depth - 1)


@dataclass(frozen=True)
class SampledLayer(Wrapper):
    """Compute a term on the features of a random inner layer, drawn each step, in place of those of the last layer.

    For every embedding x of the term it reads ``<x>/layers`` [B,depth,D] (Li et al. 2024, arXiv:2402.14776).
    """

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(f"{name}/layers" if name in self.term.embeddings else name for name in self.term.reads)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return tuple(f"{name}/layers" for name in self.term.embeddings)

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        layers = {name: outputs[f"{name}/layers"] for name in self.term.embeddings}
        sampled = {name: x[:, sampled_layer(ctx, x.shape[1])] for name, x in layers.items()}
        return self.term({**outputs, **sampled}, batch, ctx)


@dataclass(frozen=True)
class LayerAlignment(Term):
    """Make the layer of ``SampledLayer``, as logits over its features, follow the last one (Li et al., section 3.3).

    The last layer has a gradient too, as in the released code.
    """

    x: Annotated[str, Reads(outputs=("{}", "{}/layers"))]
    """Name of the last layer's features [B,D]; those of all layers are ``<x>/layers`` [B,depth,D]."""
    _: KW_ONLY
    temperature: Positive = 1.0
    """Divisor of the features."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        layers = outputs[f"{self.x}/layers"]
        layer = sampled_layer(ctx, layers.shape[1])
        return softmax_divergence(layers[:, layer], outputs[self.x], self.temperature), {"layer": layer}


@dataclass(frozen=True)
class Fused(Wrapper):
    """Compute a term on one embedding plus a factor times another one of the same row, both of unit length before.

    Nothing is added to rows for which the other embedding is absent (``<added>/present``). Huang et al. 2024,
    Structure-CLIP, arXiv:2305.06152.
    """

    x: str
    """Name of the embedding that the term reads, [B,D]."""
    added: Embedding
    """Name of the embedding that is added, [B,D]."""
    _: KW_ONLY
    factor: Finite = 0.2
    """Factor of the added embedding."""

    def problems(self) -> Iterator[str]:
        if self.x not in self.term.embeddings:
            yield f"the term reads {', '.join(self.term.embeddings)}, and not '{self.x}'"

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        x, added = normalize(outputs[self.x]), self.factor * normalize(outputs[self.added])
        if (present := batch.get(f"{self.added}/present")) is not None:
            added = jnp.where(present[:, None], added, 0.0)
        return self.term({**outputs, self.x: x + added}, batch, ctx)


@dataclass(frozen=True)
class EachView(Wrapper):
    """Compute the mean of a term over the views of one field [B,V,D], one view at a time.

    With a contrastive term it is the multi-positive loss of DreamLIP (Zheng et al. 2024, arXiv:2403.17007): no caption
    is a negative of its own image.
    """

    field: str = "text"
    """The field; ``<field>_id`` and ``<field>/present`` with a second axis are indexed in the same way."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        views = outputs[self.field]
        if views.ndim != 3:
            raise ValueError(f"EachView reads views [B,V,D] of '{self.field}', and it is {views.shape}")
        names = f"{self.field}_id", f"{self.field}/present"
        columns = {name: batch[name] for name in names if name in batch and batch[name].ndim == 2}
        losses = []
        for i in range(views.shape[1]):
            view = {name: column[:, i] for name, column in columns.items()}
            losses.append(self.term({**outputs, self.field: views[:, i]}, {**batch, **view}, ctx)[0])
        return jnp.mean(jnp.stack(losses)), {}


@dataclass(frozen=True)
class AllViews(Wrapper):
    """Compute a term on all views as rows [B*V]: the other views of the same example are candidates too.

    A field [B] is repeated for each view.
    """

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        shapes = {name: outputs[name].shape for name in self.embeddings}
        if len({shape[:2] for shape in shapes.values()}) > 1 or any(len(shape) != 3 for shape in shapes.values()):
            got = ", ".join(f"'{name}' {shape}" for name, shape in shapes.items())
            raise ValueError(f"AllViews needs embeddings of as many views, [B,V,D], and these are {got}")
        views = next(iter(shapes.values()))[1]
        folded = {name: outputs[name].reshape(-1, shape[-1]) for name, shape in shapes.items()}
        names = (*self.needs, *(f"{name}/present" for name in self.embeddings))
        columns = {name: batch[name] for name in names if name in batch}
        rows = {name: x.ravel() if x.ndim == 2 else jnp.repeat(x, views) for name, x in columns.items()}
        return self.term({**outputs, **folded}, {**batch, **rows}, ctx)


@dataclass(frozen=True)
class PrimaryComponents(Wrapper):
    """Compute a contrastive term whose first embedding is reconstructed from principal components.

    The components are those of the batch (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378, section 3.3). The
    reconstruction is not normalized, as in the released code.
    """

    term: Contrastive
    """The term; its ``a`` is reconstructed."""
    count: Count = 32
    """Number of components."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        require_all_rows(self, batch, self.term.a)
        a, b, logit_scale, options = self.term.inputs(outputs, batch)
        return self.term.loss(reconstruct_from_pca(a, self.count), b, logit_scale, options), {}
