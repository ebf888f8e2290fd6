"""Contrast the rows of two embeddings."""

from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext, fold, normalize
from jaxrep.losses import contrastive, sigmoid
from jaxrep.losses.pairwise.scan import Rows
from jaxrep.objectives.base import Metrics, Term, nonempty


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
        return self.ids + nonempty(self.weights)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.a, self.b, *nonempty(self.extra_a, self.extra_b))

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

    def more(self, name: str, beside: str, outputs: Outputs, batch: Batch) -> Rows | None:
        """The extra rows of a side, whose ids stand ``beside`` those of its own rows; they have none of other kinds."""
        if not name:
            return None
        present = batch.get(f"{name}/present")
        own = batch.get(f"{name}_id") if beside in self.ids else None
        return Rows(
            normalize(fold(outputs[name], 2)[0]),
            () if own is None else tuple(own.reshape(-1) if x == beside else jnp.full(own.size, -1) for x in self.ids),
            None if present is None else present.reshape(-1),
        )


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

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
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

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        return sigmoid.pairwise_sigmoid(**self.arguments(outputs, batch), bias=outputs[self.bias]), {}
