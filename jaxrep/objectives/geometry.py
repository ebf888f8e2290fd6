"""Terms on how features lie: alignment and uniformity on the sphere, correlations, variances and covariances."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.geometry import (
    alignment,
    barlow_twins,
    covariance_penalty,
    mean_square,
    mixed_twins,
    uniformity,
    variance_hinge,
)
from jaxrep.objectives.base import Columns, Embedding, Metrics, Output, Reads, Term
from jaxrep.spec import NonNegative, Positive


@dataclass(frozen=True)
class Alignment(Term):
    """Compute the mean squared distance of pairs (Wang & Isola 2020)."""

    a: Embedding
    """Name of the first embedding, [B,D]."""
    b: Embedding
    """Name of the second embedding, [B,D]."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        a, b = normalize(outputs[self.a]), normalize(outputs[self.b])
        return alignment(a, b, present=(batch.get(f"{self.a}/present"), batch.get(f"{self.b}/present"))), {}


@dataclass(frozen=True)
class Uniformity(Term):
    """Spread one embedding over the sphere (Wang & Isola 2020), or two against each other (Fahim et al. 2024)."""

    a: Embedding
    """Name of the embedding, [B,D]."""
    b: Embedding = ""
    """Name of the second embedding, [B,D], of which row i belongs to row i of the first; empty: the first alone."""
    _: KW_ONLY
    ids: Columns = ()
    """Fields of ids; rows with an equal id in any of them make no pair."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        a, b = self.a, self.b or self.a
        present = batch.get(f"{a}/present"), batch.get(f"{b}/present")
        ids = tuple(batch[name] for name in self.ids)
        return uniformity(normalize(outputs[a]), normalize(outputs[b]), ids=ids, present=present), {}


@dataclass(frozen=True)
class BarlowTwins(Term):
    """Make each feature agree between the views, and with no other feature (``jaxrep.losses.barlow_twins``)."""

    a: Output
    """Name of the first view's projected features, [B,D]."""
    b: Output
    """Name of the second view's."""
    _: KW_ONLY
    redundancy: NonNegative = 0.0051
    """Factor of the off-diagonal correlations."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        return barlow_twins(outputs[self.a], outputs[self.b], self.redundancy), {}


@dataclass(frozen=True)
class MixedTwins(Term):
    """Make the features of mixed inputs agree with mixed features (``jaxrep.losses.mixed_twins``)."""

    mixed: Annotated[str, Reads(outputs=("{}",), columns=("{}/share", "{}/partner"))]
    """Name of the mixed inputs' projected features, [B,D]; the view ``MixUp`` emits how they were mixed."""
    a: Output
    """Name of those of the first view."""
    b: Output
    """Name of those of the second."""
    _: KW_ONLY
    redundancy: NonNegative = 0.0051
    """Factor of the loss, that of ``BarlowTwins``."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        mixed, a, b = (outputs[name] for name in (self.mixed, self.a, self.b))
        share, partner = batch[f"{self.mixed}/share"], batch[f"{self.mixed}/partner"]
        return self.redundancy * mixed_twins(mixed, a, b, share, partner), {}


@dataclass(frozen=True)
class MeanSquare(Term):
    """Make two raw outputs of a row equal: the mean of the squared differences (``jaxrep.losses.mean_square``)."""

    a: Output
    """Name of the first output, [B,D], or of tokens [B,M,D]."""
    b: Output
    """Name of the second."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        return mean_square(outputs[self.a], outputs[self.b]), {}


@dataclass(frozen=True)
class Variance(Term):
    """Keep the deviation of each raw feature over the batch above a target (``jaxrep.losses.variance_hinge``)."""

    x: Output
    """Name of the features, [B,D]."""
    _: KW_ONLY
    target: Positive = 1.0
    """Deviation from which on there is no loss."""
    epsilon: NonNegative = 1e-4
    """Added to the variance under the root."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        return variance_hinge(outputs[self.x], self.target, self.epsilon), {}


@dataclass(frozen=True)
class Covariance(Term):
    """Make different raw features independent over the batch (``jaxrep.losses.covariance_penalty``)."""

    x: Output
    """Name of the features, [B,D]."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        return covariance_penalty(outputs[self.x]), {}
