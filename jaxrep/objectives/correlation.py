"""Terms on the correlations of two views' features over the batch."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses import correlation
from jaxrep.objectives.base import Metrics, Term


@dataclass(frozen=True)
class BarlowTwins(Term):
    """Each feature agrees between the views, and with no other feature (``jaxrep.losses.correlation.barlow_twins``)."""

    a: str
    """Name of the first view's projected features, [B,D]."""
    b: str
    """Name of the second view's."""
    _: KW_ONLY
    redundancy: float = 0.0051
    """Factor of what lies off the diagonal."""

    def problems(self) -> Iterator[str]:
        if self.redundancy < 0:
            yield f"redundancy is a factor, 0 or more, and not {self.redundancy}"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.a, self.b)

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        return correlation.barlow_twins(outputs[self.a], outputs[self.b], self.redundancy), {}


@dataclass(frozen=True)
class MixedTwins(Term):
    """Mixed inputs have mixed features (``jaxrep.losses.correlation.mixed_twins``)."""

    mixed: str
    """Name of the mixed inputs' projected features, [B,D]; the view ``MixUp`` says how they were mixed."""
    a: str
    """Name of those of the first view."""
    b: str
    """Name of those of the second."""
    _: KW_ONLY
    redundancy: float = 0.0051
    """Factor of the whole, that of ``BarlowTwins``."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.mixed, self.a, self.b)

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"{self.mixed}/share", f"{self.mixed}/partner")

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        how = (batch[name] for name in self.needs)
        return self.redundancy * correlation.mixed_twins(*(outputs[name] for name in self.reads), *how), {}
