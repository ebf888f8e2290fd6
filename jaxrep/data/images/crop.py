"""Which part of a picture the host cuts out before it is resized to the size of the batch.

A crop that is drawn follows from its key alone, so it is the same with any number of workers and hosts.
"""

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from jaxrep.spec import spec

ATTEMPTS = 10


class Box(NamedTuple):
    """A part of a picture in whole pixels; ``right`` and ``bottom`` are the first column and row outside."""

    left: int
    top: int
    right: int
    bottom: int


@spec
class HostCrop:
    """Abstract: which box of a picture becomes the picture of a batch."""

    def box(self, width: int, height: int, shape: float, key: int | None) -> Box:
        """The box in a picture of ``width`` x ``height`` pixels that will fill a rectangle of ``shape``, width/height.

        ``key``: of 64 bits, from which draws follow; None: nothing is random.
        """
        raise TypeError(f"{type(self).__name__} does not say what it cuts out")


@spec
class HostResize(HostCrop):
    """The whole picture; its sides are scaled apart."""

    def box(self, width: int, height: int, shape: float, key: int | None) -> Box:
        return Box(0, 0, width, height)


@spec
class HostCenterCrop(HostCrop):
    """The largest box of the right shape, from the middle."""

    def box(self, width: int, height: int, shape: float, key: int | None) -> Box:
        return central(width, height, shape, shape)


@spec
class HostRandomResizedCrop(HostCrop):
    """A box of random area and shape (Szegedy et al. 2015, Going deeper with convolutions, section 6).

    Boxes are drawn as torchvision's ``HostRandomResizedCrop`` draws them: the first of ten attempts that fits, else the
    largest central box of an allowed shape. Where nothing is random (evaluations), it is ``HostCenterCrop``.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    """Range of the box's area as a share of the picture's; the default is open_clip's."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the box's width over its height, drawn uniformly in the logarithm."""

    def problems(self) -> Iterator[str]:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            yield f"scale is a range (low, high) of shares above 0 and up to 1, and not {self.scale}"
        if not 0 < self.ratio[0] <= self.ratio[1]:
            yield f"ratio is a range (low, high) of positive numbers, and not {self.ratio}"

    def box(self, width: int, height: int, shape: float, key: int | None) -> Box:
        if key is None:
            return central(width, height, shape, shape)
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
        return central(width, height, *self.ratio)


def central(width: int, height: int, narrowest: float, widest: float) -> Box:
    """The largest box from the middle whose width over height is between the two."""
    w = min(width, max(1, round(height * widest)))
    h = min(height, max(1, round(width / narrowest)))
    left, top = (width - w) // 2, (height - h) // 2
    return Box(left, top, left + w, top + h)
