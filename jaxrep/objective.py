"""Terms bind losses to outputs by name; the objective is their weighted sum.

A term never sees an encoder, and a loss never sees a name. A *separable* term is a weighted sum over rows whose
weights the batch alone decides: it is evaluated inside a microbatch and divided once, by the weight of the whole
batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, Tick, fold, normalize
from jaxrep.losses import contrastive, sigmoid
from jaxrep.losses.blocks import Side
from jaxrep.losses.table import table_losses
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import spec

Metrics = dict[str, Array]


@spec
class Term:
    """Abstract: one summand of the objective."""

    weight: Schedule = Constant(value=1.0)
    """Factor of the term in the objective."""

    separable: ClassVar[bool] = False
    """Whether the term is a weighted sum over rows (see ``rows`` and ``row_weights``)."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the outputs that the term needs."""
        raise TypeError(f"{type(self).__name__} does not say what it reads")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the batch's fields that the term needs."""
        return ()

    @property
    def embeddings(self) -> tuple[str, ...]:
        """The outputs whose last axis is an embedding: what a wrapper such as Matryoshka truncates."""
        return ()

    def __call__(self, outputs: Outputs, batch: Batch, tick: Tick) -> tuple[Array, Metrics]:
        """The loss, a float32 scalar for the whole batch, and metrics."""
        if not self.separable:
            raise TypeError(f"{type(self).__name__} does not say its loss")
        weights = self.row_weights(batch)
        return jnp.sum(self.rows(outputs, batch, tick) * weights) / jnp.maximum(jnp.sum(weights), 1e-12), {}

    def rows(self, outputs: Outputs, batch: Batch, tick: Tick) -> Array:
        """Separable terms: the loss of each row [B]."""
        raise TypeError(f"{type(self).__name__} is not a sum over rows")

    def row_weights(self, batch: Batch) -> Array:
        """Separable terms: the weight of each row [B], from the batch alone."""
        return jnp.ones(len(batch["position"]), jnp.float32)


@dataclass(frozen=True)
class Pairs(Term):
    """Abstract: rows of one embedding against those of another, of which row i belongs to row i."""

    a: str
    """Name of the first embedding, [B,D]."""
    b: str
    """Name of the second embedding, [B,D]."""
    _: KW_ONLY
    scale: str = "scale"
    """Name of the shared inverse temperature."""
    positives: str = "pair"
    """What other pairs with equal ids are."""
    ids: tuple[str, ...] = ()
    """Fields of ids; rows that agree in any of them are the same answer."""
    extra_a: str = ""
    """Name of more rows on the side of a, negatives of every row of b: [B,D], [B,V,D] (hard examples) or a shared
    [Q,D] (a queue); empty: none. A field ``<name>/present`` says which exist; one ``<name>_id``, where ``ids`` has that
    of a, which are the same as a row of a and so no negatives of its partner."""
    extra_b: str = ""
    """The same on the side of b."""
    weights: str = ""
    """Field [B] of the weights of pairs; empty: all weigh the same."""

    def problems(self) -> Iterator[str]:
        if (self.positives == "pair") != (not self.ids):
            yield f"positives='{self.positives}' and ids={self.ids} do not fit: ids say which other pairs are positives"

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.embeddings, self.scale)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.ids + named(self.weights)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.a, self.b, *named(self.extra_a, self.extra_b))

    def arguments(self, outputs: Outputs, batch: Batch) -> dict[str, Any]:
        """What every loss on pairs is given."""
        return {
            "a": normalize(outputs[self.a]),
            "b": normalize(outputs[self.b]),
            "scale": outputs[self.scale],
            "positives": self.positives,
            "ids": tuple(batch[name] for name in self.ids),
            "extra_a": self.more(self.extra_a, f"{self.a}_id", outputs, batch),
            "extra_b": self.more(self.extra_b, f"{self.b}_id", outputs, batch),
            "weights": batch[self.weights] if self.weights else None,
            "present": (batch.get(f"{self.a}/present"), batch.get(f"{self.b}/present")),
        }

    def more(self, name: str, beside: str, outputs: Outputs, batch: Batch) -> Side | None:
        """The extra rows of a side, whose ids stand ``beside`` those of its own rows; they have none of other kinds."""
        if not name:
            return None
        present = batch.get(f"{name}/present")
        own = batch.get(f"{name}_id") if beside in self.ids else None
        return Side(
            normalize(fold(outputs[name], 2)[0]),
            () if own is None else tuple(own.reshape(-1) if x == beside else jnp.full(own.size, -1) for x in self.ids),
            None if present is None else present.reshape(-1),
        )


def named(*names: str) -> tuple[str, ...]:
    """The names that are not empty."""
    return tuple(name for name in names if name)


@dataclass(frozen=True)
class Contrastive(Pairs):
    """InfoNCE between two embeddings (``jaxrep.losses.contrastive.info_nce``)."""

    _: KW_ONLY
    positives: contrastive.Positives = "pair"
    """What other pairs with equal ids are: negatives, left out of the denominator, or sharers of the target (two
    forms)."""
    direction: contrastive.Direction = "mean"
    """Both directions averaged (CLIP) or summed (ALIGN), or one alone."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all candidates."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 <= self.label_smoothing < 1:
            yield f"label_smoothing is a share: at least 0 and below 1, got {self.label_smoothing}"

    def __call__(self, outputs: Outputs, batch: Batch, tick: Tick) -> tuple[Array, Metrics]:
        return self.of(self.arguments(outputs, batch)), {}

    def of(self, given: Mapping[str, Any]) -> Array:
        """The loss of what ``arguments`` gives."""
        return contrastive.info_nce(**given, direction=self.direction, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class Sigmoid(Pairs):
    """The pairwise sigmoid loss between two embeddings (``jaxrep.losses.sigmoid.sigmoid``)."""

    _: KW_ONLY
    positives: sigmoid.Positives = "pair"
    """What other pairs with equal ids are: negatives, left out, or positives as well."""
    bias: str = "bias"
    """Name of the shared bias."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, self.bias)

    def __call__(self, outputs: Outputs, batch: Batch, tick: Tick) -> tuple[Array, Metrics]:
        return sigmoid.sigmoid(**self.arguments(outputs, batch), bias=outputs[self.bias]), {}


@dataclass(frozen=True)
class CrossEntropy(Term):
    """Classification of rows against a shared table of classes (``jaxrep.losses.table``); a label below 0 counts
    nothing."""

    x: str
    """Name of the features, [B,D]."""
    table: str = "classes"
    """Name of the shared table [K,d]; its bias is ``<table>/bias``. Features are cut to the table's width d."""
    _: KW_ONLY
    label: str = "label"
    """Field of the labels."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes."""

    separable: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x, self.table, f"{self.table}/bias")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.label,)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.x, self.table)

    def rows(self, outputs: Outputs, batch: Batch, tick: Tick) -> Array:
        table, bias = outputs[self.table], outputs[f"{self.table}/bias"]
        x = outputs[self.x][:, : table.shape[1]].astype(jnp.float32)
        with_ones = jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
        with_bias = jnp.concatenate([table, bias[:, None]], axis=1)
        return table_losses(with_ones, with_bias, batch[self.label], label_smoothing=self.label_smoothing)

    def row_weights(self, batch: Batch) -> Array:
        return (batch[self.label] >= 0).astype(jnp.float32)


@dataclass(frozen=True)
class Wrapper(Term):
    """Abstract: a term that evaluates another one, on outputs that it changed."""

    term: Term
    """The term that is evaluated."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.term.reads

    @property
    def needs(self) -> tuple[str, ...]:
        return self.term.needs

    @property
    def embeddings(self) -> tuple[str, ...]:
        return self.term.embeddings


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

    def __call__(self, outputs: Outputs, batch: Batch, tick: Tick) -> tuple[Array, Metrics]:
        if self.separable:
            return super().__call__(outputs, batch, tick)
        losses = {dim: (weight, self.term(cut, batch, tick)[0]) for dim, weight, cut in self.widths(outputs)}
        return jnp.sum(jnp.stack([w * loss for w, loss in losses.values()])), {
            f"d{d}": x for d, (_, x) in losses.items()
        }

    def rows(self, outputs: Outputs, batch: Batch, tick: Tick) -> Array:
        return sum(
            (weight * self.term.rows(cut, batch, tick) for _, weight, cut in self.widths(outputs)), jnp.float32(0)
        )

    def row_weights(self, batch: Batch) -> Array:
        return self.term.row_weights(batch)


def evaluate(objective: Mapping[str, Term], outputs: Outputs, batch: Batch, tick: Tick) -> tuple[Array, Metrics]:
    """The weighted sum of the terms, and ``loss/<term>`` with each term's own metrics."""
    total = jnp.float32(0)
    metrics: Metrics = {}
    for name, term in objective.items():
        loss, own = term(outputs, batch, tick)
        total += term.weight(tick) * loss
        metrics |= {f"loss/{name}": loss, **{f"loss/{name}/{key}": value for key, value in own.items()}}
    return total, metrics
