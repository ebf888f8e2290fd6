"""Terms on examples of which a field has several views, as an image with V captions: outputs [B,V,D]."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.objectives.base import Metrics, Wrapper


@dataclass(frozen=True)
class EachView(Wrapper):
    """The mean of a term over the views of one field: each takes its turn as the only one.

    With a contrastive term it is the multi-positive loss of DreamLIP (Zheng et al. 2024, arXiv:2403.17007): no caption
    is a negative of its own image.
    """

    of: str = "text"
    """The field; ``<of>_id`` and ``<of>/present`` with a second axis take their turn with it."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        views, own = outputs[self.of], (f"{self.of}_id", f"{self.of}/present")
        if views.ndim != 3:
            raise ValueError(f"EachView takes the views of '{self.of}' in turn, [B,V,D], and it is {views.shape}")
        fields = {name: batch[name] for name in own if name in batch and batch[name].ndim == 2}
        losses = []
        for view in range(views.shape[1]):
            here = {name: field[:, view] for name, field in fields.items()}
            losses.append(self.term({**outputs, self.of: views[:, view]}, {**batch, **here}, ctx)[0])
        return jnp.mean(jnp.stack(losses)), {}


@dataclass(frozen=True)
class AllViews(Wrapper):
    """A term on all views as so many rows [B*V]: the others of the same example are candidates as well.

    What a field says of an example [B] it says of each of its views.
    """

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        shapes = {outputs[name].shape[:2] for name in self.embeddings}
        if len(shapes) > 1 or any(outputs[name].ndim != 3 for name in self.embeddings):
            told = ", ".join(f"'{name}' {outputs[name].shape}" for name in self.embeddings)
            raise ValueError(f"AllViews needs embeddings of as many views, [B,V,D], and these are {told}")
        ((_, views),) = shapes
        folded = {name: outputs[name].reshape(-1, outputs[name].shape[-1]) for name in self.embeddings}
        needed = (*self.needs, *(f"{name}/present" for name in self.embeddings))
        fields = {name: batch[name] for name in needed if name in batch}
        rows = {name: x.ravel() if x.ndim == 2 else jnp.repeat(x, views) for name, x in fields.items()}
        return self.term({**outputs, **folded}, {**batch, **rows}, ctx)
