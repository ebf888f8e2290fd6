"""A contrastive term on what is coarse in one embedding (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378)."""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.pca import reconstruct_from_pca
from jaxrep.objectives.base import Metrics, Wrapper
from jaxrep.objectives.contrastive import Contrastive


@dataclass(frozen=True)
class PrimaryComponents(Wrapper):
    """A contrastive term whose first embedding is rebuilt from the batch's principal components (section 3.3).

    What is rebuilt is not normalized again, as in the released code.
    """

    term: Contrastive
    """The term; its ``a`` is rebuilt."""
    count: int = 32
    """Number of components."""

    def problems(self) -> Iterator[str]:
        if self.count < 1:
            yield f"count is a number of components: at least 1, got {self.count}"

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        if f"{self.term.a}/present" in batch:
            raise ValueError(
                f"principal components are of all rows of '{self.term.a}', and some are left out of the batch"
            )
        given = self.term.arguments(outputs, batch)
        return self.term.of({**given, "a": reconstruct_from_pca(given["a"], self.count)}), {}
