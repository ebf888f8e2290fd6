"""Terms that mix embeddings on the sphere: ``jaxrep.losses.mixup``, bound to outputs by name (Oh et al. 2023)."""

from dataclasses import KW_ONLY, dataclass

import jax

from jaxrep.batch import Array, Batch, Outputs, StepContext, normalize
from jaxrep.losses.mixup import Mixed, mixed_negatives, mixed_pairs
from jaxrep.objectives.base import EmbeddingPair, Metrics, require_all_rows
from jaxrep.spec import NonNegative, Positive


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
