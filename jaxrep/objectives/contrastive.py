"""Contrast the rows of two embeddings, as they are or mixed on the sphere (Oh et al. 2023, arXiv:2203.03897)."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext, fold, normalize
from jaxrep.losses.contrastive import Direction, candidate_problems, info_nce, partner_first
from jaxrep.losses.mixup import Mixed, mixed_negatives, mixed_pairs
from jaxrep.losses.pairwise.pairs import Duplicates, PairOptions
from jaxrep.losses.pairwise.scan import Rows
from jaxrep.losses.sigmoid import pairwise_sigmoid
from jaxrep.objectives.base import Column, Columns, Embedding, EmbeddingPair, Metrics, Output, require_all_rows
from jaxrep.spec import NonNegative, Positive, Range

Inputs = tuple[Array, Array, Array, PairOptions]


@dataclass(frozen=True)
class PairTerm(EmbeddingPair):
    """Declare a loss on all pairs of rows of two embeddings (abstract)."""

    _: KW_ONLY
    duplicates: Duplicates = "negative"
    """How other pairs with equal ids count."""
    ids: Columns = ()
    """Fields of ids; pairs with an equal id in any of them are duplicates."""
    extra_a: Embedding = ""
    """Name of more rows on the side of a, negatives of every row of b: [B,D], [B,V,D] (hard negatives) or a shared
    [Q,D] (a queue); empty: none. The field ``<name>/present`` tells which exist. The field ``<name>_id`` is compared
    with ``<a>_id`` if that is one of ``ids``, an output ``<name>_id`` (of a queue) with the first of ``ids``:
    duplicates of a row are no negatives of its partner."""
    extra_b: Embedding = ""
    """The same on the side of b."""
    row_extra_a: Embedding = ""
    """Name of more rows [B,M,D] on the side of a, of which the i-th M are negatives of row i of b alone; empty: none.
    ``<name>/present`` [B,M] tells which exist."""
    row_extra_b: Embedding = ""
    """The same on the side of b, for the rows of a."""
    weights: Column = ""
    """Field [B] of the weights of pairs; empty: all weigh the same."""

    def problems(self) -> Iterator[str]:
        if (self.duplicates == "negative") != (not self.ids):
            yield f"duplicates='{self.duplicates}' and ids={self.ids} do not fit: ids tell which pairs are duplicates"

    def inputs(self, outputs: Outputs, batch: Batch) -> Inputs:
        """Return the arguments of a loss on pairs: unit rows, the logit scale and the options."""
        options = PairOptions(
            ids=tuple(batch[name] for name in self.ids),
            duplicates=self.duplicates,
            extra_a=self._extra_rows(self.extra_a, f"{self.a}_id", outputs, batch),
            extra_b=self._extra_rows(self.extra_b, f"{self.b}_id", outputs, batch),
            row_extra_a=self._row_extra(self.row_extra_a, outputs, batch),
            row_extra_b=self._row_extra(self.row_extra_b, outputs, batch),
            weights=batch[self.weights] if self.weights else None,
            present=(batch.get(f"{self.a}/present"), batch.get(f"{self.b}/present")),
        )
        return normalize(outputs[self.a]), normalize(outputs[self.b]), outputs[self.scale], options

    def _extra_rows(self, name: str, id_field: str, outputs: Outputs, batch: Batch) -> Rows | None:
        """Return the extra rows of a side; their ids are of the kind ``id_field``, and of no other kind (-1)."""
        if not name:
            return None
        present = outputs.get(f"{name}/present", batch.get(f"{name}/present"))
        ids = batch.get(f"{name}_id") if id_field in self.ids else None
        if self.ids and f"{name}_id" in outputs:
            ids, id_field = outputs[f"{name}_id"], self.ids[0]
        return Rows(
            normalize(fold(outputs[name], 2)[0]),
            () if ids is None else tuple(ids.ravel() if x == id_field else jnp.full(ids.size, -1) for x in self.ids),
            None if present is None else present.reshape(-1),
        )

    def _row_extra(self, name: str, outputs: Outputs, batch: Batch) -> Rows | None:
        """Return the extra rows of single rows."""
        present = outputs.get(f"{name}/present", batch.get(f"{name}/present"))
        return Rows(normalize(outputs[name]), (), present) if name else None


@dataclass(frozen=True)
class Contrastive(PairTerm):
    """Compute InfoNCE between two embeddings (``jaxrep.losses.info_nce``)."""

    _: KW_ONLY
    duplicates: Literal["negative", "ignore", "supcon", "mil_nce"] = "negative"
    """How other pairs with equal ids count: as negatives, not at all, or as targets too (mean of the log-probabilities,
    or log of the sum of the probabilities)."""
    direction: Direction = "mean"
    """Both directions averaged (CLIP) or summed (ALIGN), or one alone."""
    label_smoothing: Annotated[float, Range(0, below=1)] = 0.0
    """Share of the target that is spread over all candidates."""
    in_batch: bool = True
    """Whether other rows of the batch are candidates, or the partner and the extra rows alone (MoCo's queue)."""
    same_side: bool = False
    """Whether the other rows of its own side are candidates of a row too (SimCLR's 2B rows), and targets if they are
    duplicates (SupCon)."""
    decoupled: bool = False
    """Whether targets are left out of the candidates (Yeh et al. 2022, arXiv:2110.06848)."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        extras = [name for name in ("extra_a", "extra_b", "row_extra_a", "row_extra_b") if getattr(self, name)]
        yield from candidate_problems(extras, self.duplicates, *self._choices.values())

    @property
    def _choices(self) -> dict[str, Any]:
        names = "direction", "label_smoothing", "in_batch", "same_side", "decoupled"
        return {name: getattr(self, name) for name in names}

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        inputs = self.inputs(outputs, batch)
        return self.loss(*inputs), self.metrics(*inputs)

    def loss(self, *inputs: *Inputs) -> Array:
        """Return the loss of what ``inputs`` returns."""
        return info_nce(*inputs, **self._choices)

    def metrics(self, a: Array, b: Array, logit_scale: Array, options: PairOptions) -> Metrics:
        """Return ``first`` without in_batch: the share of rows whose partner is nearer than all extra rows."""
        return {} if self.in_batch else {"first": partner_first(a, b, options, direction=self.direction)}


@dataclass(frozen=True)
class Sigmoid(PairTerm):
    """Compute the sigmoid loss between two embeddings (``jaxrep.losses.pairwise_sigmoid``)."""

    _: KW_ONLY
    duplicates: Literal["negative", "ignore", "positive"] = "negative"
    """How other pairs with equal ids count: as negatives, not at all, or as positives too."""
    bias: Output = "bias"
    """Name of the shared bias."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        a, b, logit_scale, options = self.inputs(outputs, batch)
        return pairwise_sigmoid(a, b, logit_scale, outputs[self.bias], options), {}


@dataclass(frozen=True)
class MixupTerm(EmbeddingPair):
    """Declare a loss on mixtures of the rows of two embeddings (abstract)."""

    _: KW_ONLY
    beta: Positive = 0.5
    """The share of the first in a mixture is drawn from Beta(beta, beta), once per step."""

    def pairs(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return unit rows of both. Raises ValueError: rows are absent, and cannot be mixed."""
        require_all_rows(self, batch, self.a, self.b)
        return normalize(outputs[self.a]), normalize(outputs[self.b])

    def share(self, ctx: StepContext, site: str) -> Array:
        """Draw the share of this step; each kind of term has its own site."""
        return jax.random.beta(ctx.key(f"{site}/{self.a}/{self.b}"), self.beta, self.beta)


@dataclass(frozen=True)
class MixedNegatives(MixupTerm):
    """Compute m2-Mix: the mixtures of other pairs are the negatives."""

    _: KW_ONLY
    fixed_logit_scale: NonNegative = 0.0
    """A constant inverse temperature in place of the shared one; 0: the shared one."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        logit_scale = self.fixed_logit_scale or outputs[self.scale]
        return mixed_negatives(*self.pairs(outputs, batch), logit_scale, self.share(ctx, "negatives")), {}


@dataclass(frozen=True)
class MixedPairs(MixupTerm):
    """Compute V-Mix, L-Mix or VL-Mix: mixtures of rows of one side, or of both, with soft targets."""

    _: KW_ONLY
    mixed: Mixed
    """The side that is mixed."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        share = self.share(ctx, f"pairs/{self.mixed}")
        return mixed_pairs(*self.pairs(outputs, batch), outputs[self.scale], share, mixed=self.mixed), {}
