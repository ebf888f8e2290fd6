"""A contrastive term on the principal components of one embedding (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378)."""

from dataclasses import dataclass

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.pca import reconstruct_from_pca
from jaxrep.objectives.base import Metrics, Wrapper, require_all_rows
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.spec import Count


@dataclass(frozen=True)
class PrimaryComponents(Wrapper):
    """Compute a contrastive term whose first embedding is reconstructed from principal components (section 3.3).

    The components are those of the batch. The reconstruction is not normalized, as in the released code.
    """

    term: Contrastive
    """The term; its ``a`` is reconstructed."""
    count: Count = 32
    """Number of components."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        require_all_rows(self, batch, self.term.a)
        a, b, logit_scale, options = self.term.inputs(outputs, batch)
        return self.term.loss(reconstruct_from_pca(a, self.count), b, logit_scale, options), {}
