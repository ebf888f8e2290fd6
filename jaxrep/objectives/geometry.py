"""Alignment and uniformity on the sphere: ``jaxrep.losses.geometry``, bound to outputs by name."""

from dataclasses import KW_ONLY, dataclass

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.geometry import alignment, uniformity
from jaxrep.objectives.base import Columns, Embedding, Metrics, Term, present_rows


@dataclass(frozen=True)
class Alignment(Term):
    """Compute the mean squared distance of pairs (Wang & Isola 2020)."""

    a: Embedding
    """Name of the first embedding, [B,D]."""
    b: Embedding
    """Name of the second embedding, [B,D]."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        a, b = normalize(outputs[self.a]), normalize(outputs[self.b])
        return alignment(a, b, present=(present_rows(batch, self.a), present_rows(batch, self.b))), {}


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
        present = present_rows(batch, a), present_rows(batch, b)
        ids = tuple(batch[name] for name in self.ids)
        return uniformity(normalize(outputs[a]), normalize(outputs[b]), ids=ids, present=present), {}
