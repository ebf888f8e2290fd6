"""Terms that mix embeddings on the sphere: ``jaxrep.losses.mixup``, bound to outputs by name (Oh et al. 2023)."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import jax

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses import mixup
from jaxrep.objectives.base import Metrics, Term


@dataclass(frozen=True)
class Mixup(Term):
    """Abstract: what the two have in common."""

    a: str
    """Name of the first embedding, [B,D]."""
    b: str
    """Name of the second embedding, [B,D]."""
    _: KW_ONLY
    scale: str = "scale"
    """Name of the shared inverse temperature."""
    beta: float = 0.5
    """The share of the first in a mixture is drawn from Beta(beta, beta), once a step."""

    def problems(self) -> Iterator[str]:
        if self.beta <= 0:
            yield f"beta is the parameter of a Beta distribution: above 0, got {self.beta}"

    @property
    def reads(self) -> tuple[str, ...]:
        return (*self.embeddings, self.scale)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (self.a, self.b)

    def pairs(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Unit rows of both. Raises ValueError: rows may be missing, which cannot be mixed."""
        for name in self.embeddings:
            if f"{name}/present" in batch:
                raise ValueError(
                    f"{type(self).__name__} mixes all rows of '{name}', and '{name}/present' leaves some out"
                )
        return normalize(outputs[self.a]), normalize(outputs[self.b])

    def share(self, ctx: StepContext, site: str) -> Array:
        """The share of this step; a term draws at a site of its own."""
        return jax.random.beta(ctx.key(f"{site}/{self.a}/{self.b}"), self.beta, self.beta)


@dataclass(frozen=True)
class MixedNegatives(Mixup):
    """m2-Mix: the mixtures of other pairs are the negatives."""

    _: KW_ONLY
    own_scale: float = 0.0
    """An inverse temperature of its own; 0: the shared one."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        scale = self.own_scale or outputs[self.scale]
        return mixup.mixed_negatives(*self.pairs(outputs, batch), scale, self.share(ctx, "negatives")), {}


@dataclass(frozen=True)
class MixedPairs(Mixup):
    """V-Mix, L-Mix and VL-Mix: mixtures of rows of one side, or of both, with soft targets."""

    _: KW_ONLY
    mixed: mixup.Mixed
    """The side that is mixed."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        share = self.share(ctx, f"pairs/{self.mixed}")
        return mixup.mixed_pairs(*self.pairs(outputs, batch), outputs[self.scale], share, mixed=self.mixed), {}
