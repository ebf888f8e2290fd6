"""Terms on several views per example, as an image with V captions: outputs [B,V,D]."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.objectives.base import Metrics, Wrapper


@dataclass(frozen=True)
class EachView(Wrapper):
    """Compute the mean of a term over the views of one field, one view at a time.

    With a contrastive term it is the multi-positive loss of DreamLIP (Zheng et al. 2024, arXiv:2403.17007): no caption
    is a negative of its own image.
    """

    field: str = "text"
    """The field; ``<field>_id`` and ``<field>/present`` with a second axis are indexed in the same way."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        views = outputs[self.field]
        if views.ndim != 3:
            raise ValueError(f"EachView reads views [B,V,D] of '{self.field}', and it is {views.shape}")
        names = f"{self.field}_id", f"{self.field}/present"
        columns = {name: batch[name] for name in names if name in batch and batch[name].ndim == 2}
        losses = []
        for i in range(views.shape[1]):
            view = {name: column[:, i] for name, column in columns.items()}
            losses.append(self.term({**outputs, self.field: views[:, i]}, {**batch, **view}, ctx)[0])
        return jnp.mean(jnp.stack(losses)), {}


@dataclass(frozen=True)
class AllViews(Wrapper):
    """Compute a term on all views as rows [B*V]: the other views of the same example are candidates too.

    A field [B] is repeated for each view.
    """

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        shapes = {name: outputs[name].shape for name in self.embeddings}
        if len({shape[:2] for shape in shapes.values()}) > 1 or any(len(shape) != 3 for shape in shapes.values()):
            got = ", ".join(f"'{name}' {shape}" for name, shape in shapes.items())
            raise ValueError(f"AllViews needs embeddings of as many views, [B,V,D], and these are {got}")
        views = next(iter(shapes.values()))[1]
        folded = {name: outputs[name].reshape(-1, shape[-1]) for name, shape in shapes.items()}
        names = (*self.needs, *(f"{name}/present" for name in self.embeddings))
        columns = {name: batch[name] for name in names if name in batch}
        rows = {name: x.ravel() if x.ndim == 2 else jnp.repeat(x, views) for name, x in columns.items()}
        return self.term({**outputs, **folded}, {**batch, **rows}, ctx)
