"""Terms on how embeddings lie on the sphere: ``jaxrep.losses.geometry``, bound to outputs by name."""

from dataclasses import KW_ONLY, dataclass

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses import geometry
from jaxrep.objectives.base import Metrics, Term


@dataclass(frozen=True)
class Alignment(Term):
    """The mean squared distance of pairs (Wang & Isola 2020)."""

    a: str
    """Name of the first embedding, [B,D]."""
    b: str
    """Name of the second embedding, [B,D]."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.embeddings

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.a, self.b)

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        a, b = (normalize(outputs[name]) for name in (self.a, self.b))
        return geometry.alignment(a, b, present=(batch.get(f"{self.a}/present"), batch.get(f"{self.b}/present"))), {}


@dataclass(frozen=True)
class Uniformity(Term):
    """How evenly one embedding covers the sphere (Wang & Isola 2020), or two between them (Fahim et al. 2024)."""

    a: str
    """Name of the embedding, [B,D]."""
    b: str = ""
    """Name of the second embedding, [B,D], of which row i belongs to row i of the first; empty: the first alone."""
    _: KW_ONLY
    ids: tuple[str, ...] = ()
    """Fields of ids; rows that agree in any of them need not be apart."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.embeddings

    @property
    def needs(self) -> tuple[str, ...]:
        return self.ids

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.a, self.b) if self.b else (self.a,)

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        a, b = self.a, self.b or self.a
        loss = geometry.uniformity(
            normalize(outputs[a]),
            normalize(outputs[b]),
            ids=tuple(batch[name] for name in self.ids),
            present=(batch.get(f"{a}/present"), batch.get(f"{b}/present")),
        )
        return loss, {}
