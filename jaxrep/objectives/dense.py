"""Terms between places of two views of a picture, which the views' boxes put in relation.

Xie et al. 2021, Propagate Yourself, arXiv:2011.10043.
"""

import abc
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any

import jax.numpy as jnp

from jaxrep.batch import Array, Batch, Outputs, StepContext
from jaxrep.losses.dense import near_places, place_agreement, place_contrast
from jaxrep.objectives.base import Metrics, Output, Reads, Term
from jaxrep.spec import Positive

Boxes = Annotated[tuple[str, str], Reads(columns=("{}",))]


@dataclass(frozen=True)
class PlaceTerm(Term):
    """Declare a loss of near places of two feature maps; the mean over pictures (abstract).

    The metrics are the mean number of pairs of near places of a picture, and the share of pictures that have any.
    """

    a: Output
    """Name of the map that is compared, [B,h,w,D]."""
    b: Output
    """Name of the map that it is compared with, [B,h,w,D]."""
    boxes: Boxes
    """Fields [B,4] of what each of the two shows: ``<view>/box``, which a crop with ``tell_box`` adds."""
    _: KW_ONLY
    radius: Positive = 0.7
    """Largest distance of the centers of near places, in diagonals of a place of the view whose places are larger."""

    def advice(self, field: str) -> str:
        return "the crop of a view tells it if its view has tell_box = True" if field in self.boxes else ""

    @abc.abstractmethod
    def losses(self, a: Array, b: Array, near: Array) -> Array:
        """Return the losses [B] of places a [B,N,D] and b [B,M,D]; ``near`` bool [B,N,M]."""

    def __call__(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> tuple[Array, Metrics]:
        (a, box_a), (b, box_b) = (
            _checked(name, outputs[name], field, batch[field])
            for name, field in zip((self.a, self.b), self.boxes, strict=True)
        )
        near = near_places(box_a, box_b, a.shape[1:3], b.shape[1:3], self.radius)
        losses = self.losses(a.reshape(len(a), -1, a.shape[-1]), b.reshape(len(b), -1, b.shape[-1]), near)
        pairs = jnp.sum(near, axis=(1, 2))
        metrics = {"pairs": jnp.mean(pairs.astype(jnp.float32)), "overlap": jnp.mean((pairs > 0).astype(jnp.float32))}
        return jnp.mean(losses), metrics


def _checked(name: str, x: Array, field: str, box: Array) -> tuple[Any, Array]:
    """Check a map and its box. Raises ValueError: the map has no places, or there is not one box per picture."""
    if x.ndim != 4:
        raise ValueError(f"'{name}' has shape {x.shape}, where places are read from a map [B,h,w,D]")
    if box.shape != (len(x), 4):
        raise ValueError(f"'{field}' has shape {box.shape}, where one box per picture is expected, {(len(x), 4)}")
    return x, box


@dataclass(frozen=True)
class PlaceAgreement(PlaceTerm):
    """Make near places agree: minus twice their mean cosine, and 0 for a picture without any (PixPro)."""

    def losses(self, a: Array, b: Array, near: Array) -> Array:
        return place_agreement(a, b, near)


@dataclass(frozen=True)
class PlaceContrast(PlaceTerm):
    """Tell near places from the other places of the other view, by a cross-entropy (PixContrast)."""

    _: KW_ONLY
    temperature: Positive = 0.3
    """Divisor of the cosines."""

    def losses(self, a: Array, b: Array, near: Array) -> Array:
        return place_contrast(a, b, near, self.temperature)
