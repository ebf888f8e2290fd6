"""Choose the part of an image that the host cuts out and resizes to the size of the batch.

A random crop follows from its key alone, so it is the same with any number of workers and hosts.
"""

import abc
import math
import random
from collections.abc import Iterator
from typing import Annotated, NamedTuple

from jaxrep.spec import Positive, Range, spec

ATTEMPTS = 10

AreaShare = Annotated[float, Range(above=0, high=1)]
"""A share of an area, of which there is some."""


class Box(NamedTuple):
    """Hold a part of an image in whole pixels; ``right`` and ``bottom`` are the first column and row outside."""

    left: int
    top: int
    right: int
    bottom: int


@spec
class HostCrop(abc.ABC):
    """Choose the box of an image that becomes the image of a batch."""

    @abc.abstractmethod
    def box(self, width: int, height: int, aspect_ratio: float, key: int | None) -> Box:
        """Return the box in an image of ``width`` x ``height`` pixels that will fill a rectangle.

        Args:
            width: pixels of the image.
            height: pixels of the image.
            aspect_ratio: width over height of the rectangle.
            key: 64 bits, the source of randomness; None: nothing is random.
        """


@spec
class HostResize(HostCrop):
    """Take the whole image; width and height are scaled independently."""

    def box(self, width: int, height: int, aspect_ratio: float, key: int | None) -> Box:
        return Box(0, 0, width, height)


@spec
class HostCenterCrop(HostCrop):
    """Take a box of the right aspect ratio from the middle, the largest by default."""

    side: Annotated[float, Range(above=0, high=1)] = 1.0
    """Share of the sides of the largest box; 224 / 256 for the middle 224 pixels of pictures resized to 256."""

    def box(self, width: int, height: int, aspect_ratio: float, key: int | None) -> Box:
        left, top, right, bottom = center_box(width, height, aspect_ratio, aspect_ratio)
        w, h = (max(1, round(self.side * full)) for full in (right - left, bottom - top))
        left, top = (width - w) // 2, (height - h) // 2
        return Box(left, top, left + w, top + h)


@spec
class HostRandomResizedCrop(HostCrop):
    """Take a box of random area and aspect ratio (Szegedy et al. 2015, Going deeper with convolutions, section 6).

    Boxes are drawn as torchvision's ``RandomResizedCrop`` draws them: the first of ten attempts that fits, else the
    largest central box of an allowed aspect ratio. If nothing is random (evaluations), it is ``HostCenterCrop``.
    """

    scale: tuple[AreaShare, AreaShare] = (0.9, 1.0)
    """Range of the box's area as a share of the image's area; the default is open_clip's."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Range of the box's width over its height, drawn uniformly in the logarithm."""

    def problems(self) -> Iterator[str]:
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if low > high:
                yield f"{name} is a range (low, high), and not {(low, high)}"

    def box(self, width: int, height: int, aspect_ratio: float, key: int | None) -> Box:
        if key is None:
            return center_box(width, height, aspect_ratio, aspect_ratio)
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        draw = random.Random(key).random  # Python promises the same sequence in every version
        for _ in range(ATTEMPTS):
            area, ratio, across, down = draw(), draw(), draw(), draw()
            pixels = width * height * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + ratio * (high - low))
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 1 <= w <= width and 1 <= h <= height:
                left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
                return Box(left, top, left + w, top + h)
        return center_box(width, height, *self.ratio)


def center_box(width: int, height: int, narrowest: float, widest: float) -> Box:
    """Return the largest box from the middle whose width over height is between the two."""
    w = min(width, max(1, round(height * widest)))
    h = min(height, max(1, round(width / narrowest)))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)
