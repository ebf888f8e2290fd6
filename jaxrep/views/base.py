"""The interface of views: an augmentation inside the training step, a pure function of a batch and a StepContext.

Only training applies views; at inference the model's own transform prepares an image. A step gives each view a separate
step context (``ctx.at(...)``), so two views of one class draw differently.
"""

import abc
import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num, Shaped

from jaxrep.batch import Array, Batch, StepContext, require_fields
from jaxrep.spec import spec


@dataclasses.dataclass(frozen=True)
class View(abc.ABC):
    """Declare a view (abstract). Fields of a concrete view, except ``of``, are keyword-only."""

    couples_rows: ClassVar[bool] = False
    """Whether a row's result depends on other rows (mixing): such a view runs before the split into microbatches."""

    of: str = "image"
    """Field of the batch that the view changes."""

    @abc.abstractmethod
    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        """Return a new batch."""


@spec
class ImageView(View):
    """Declare a view that augments every image separately, with a separate key (abstract).

    The field is uint8 or float [B,H,W,C] or [B,V,H,W,C] and becomes float32 in [0, 1]; each of the V images has its own
    draws. If the batch has ``<of>/box``, the parts of the picture that the images show (``Crop``), it is kept true.
    """

    site: ClassVar[str]
    """Name of the site of the draws. A renamed class keeps its site, so that runs keep their draws."""

    @abc.abstractmethod
    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
        """Return one image with values in [0, 1], augmented with the randomness of ``key``."""

    def shown(self, key: Array, box: Float[Array, "4"], *, size: tuple[int, int]) -> Float[Array, "4"]:
        """Return the box of an image after ``augment`` with the same key, from its ``box`` before.

        A view that moves pixels overrides this. ``size``: height and width before, in pixels.
        """
        return box

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, type(self).__name__, self.of)
        images, keys, augment = batch[self.of], ctx.keys(self.site), jax.vmap(self.augment)
        if images.ndim not in (4, 5):
            raise ValueError(f"'{self.of}' has shape {images.shape}, where a view expects [B,H,W,C] or [B,V,H,W,C]")
        if images.ndim == 5:
            keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, jnp.arange(images.shape[1]))
            augment = jax.vmap(augment)
        return {**batch, self.of: augment(keys, to_float(images)), **self._boxes(batch, keys)}

    def _boxes(self, batch: Batch, keys: Array) -> dict[str, Array]:
        """Return the images' boxes after the view, if the batch has boxes."""
        name, shape = f"{self.of}/box", batch[self.of].shape
        if name not in batch:
            return {}
        if batch[name].shape != (expected := (*shape[:-3], 4)):
            raise ValueError(
                f"'{name}' has shape {batch[name].shape}, where a view expects a box per image, {expected}"
            )
        shown = partial(self.shown, size=(shape[-3], shape[-2]))
        return {name: jnp.vectorize(shown, signature="(),(4)->(4)")(keys, batch[name])}


def to_float(images: Num[Array, "..."]) -> Float[Array, "..."]:
    """Map uint8 in 0..255 to float32 in [0, 1]; floats keep their values."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images.astype(jnp.float32)


def random_apply(
    key: Array, p: float, changed: Shaped[Array, "..."], image: Shaped[Array, "..."]
) -> Shaped[Array, "..."]:
    """Return ``changed`` with probability ``p``, else ``image``."""
    return jnp.where(jax.random.bernoulli(key, p), changed, image)


def inner_box(
    box: Float[Array, "4"], left: Array | float, top: Array | float, right: Array | float, bottom: Array | float
) -> Float[Array, "4"]:
    """Return the box of a part of an image that has ``box``; the part's edges are shares of the image."""
    start, extent = box[:2], box[2:] - box[:2]
    return jnp.concatenate([start + extent * jnp.stack(edge) for edge in ((left, top), (right, bottom))])


def range_problems(**ranges: tuple[float, float]) -> Iterator[str]:
    """Yield a sentence for each range whose low end is above its high end."""
    for name, (low, high) in ranges.items():
        if low > high:
            yield f"{name} is a range (low, high), got {(low, high)}"
