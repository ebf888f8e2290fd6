"""What every view is: an augmentation on the device, inside the step, a pure function of a batch and a StepContext.

Views belong to training: at inference the model's own transform prepares an image and no view is called. A step gives
each view a step context of its own (``ctx.at(...)``), so two views of one class draw differently.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num, Shaped

from jaxrep.batch import Array, Batch, StepContext, require_fields
from jaxrep.spec import spec


@dataclasses.dataclass(frozen=True)
class View:
    """Abstract: ``view(batch, context)`` is a new batch. Fields of a concrete view, except ``of``, are keyword-only."""

    couples_rows: ClassVar[bool] = False
    """Whether a row's result depends on other rows (mixing): such a view runs before the split into microbatches."""

    of: str = "image"
    """Field of the batch that the view changes."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        raise TypeError(f"{type(self).__name__} is not a view: it does not say how it changes a batch")


@spec
class ImageView(View):
    """Abstract: a view that treats every image by itself, with a key of its own.

    The field is uint8 or float [B,H,W,C] or [B,V,H,W,C] and becomes float32 in [0, 1]; each of the V draws for itself.
    """

    site: ClassVar[str]
    """Name of the site of the draws. A class that is renamed keeps its site, so that runs keep their draws."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        """One image with values in [0, 1], changed by the randomness of ``key``."""
        raise TypeError(f"{type(self).__name__} does not say how it changes an image")

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, type(self).__name__, self.of)
        images, keys, augment = batch[self.of], ctx.keys(self.site), jax.vmap(self.augment)
        if images.ndim not in (4, 5):
            raise ValueError(f"'{self.of}' has shape {images.shape}, where a view expects [B,H,W,C] or [B,V,H,W,C]")
        if images.ndim == 5:
            each = jnp.arange(images.shape[1])
            keys = jax.vmap(lambda key: jax.vmap(jax.random.fold_in, (None, 0))(key, each))(keys)
            augment = jax.vmap(augment)
        return {**batch, self.of: augment(keys, to_float(images))}


def to_float(images: Num[Array, "..."]) -> Float[Array, "..."]:
    """uint8 in 0..255 -> float32 in [0, 1]; what is float stays as it is."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images.astype(jnp.float32)


def random_apply(
    key: Array, p: float, changed: Shaped[Array, "..."], image: Shaped[Array, "..."]
) -> Shaped[Array, "..."]:
    """``changed`` with probability ``p``, else ``image``."""
    return jnp.where(jax.random.bernoulli(key, p), changed, image)
