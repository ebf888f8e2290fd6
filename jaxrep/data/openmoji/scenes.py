"""Scenes of several emojis on one canvas, with a caption, and with a name and a box of each: made from a seed."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image

from jaxrep.batch import Field
from jaxrep.data.openmoji.emoji import ATTRIBUTION, OpenMoji, same
from jaxrep.data.source import Examples, Source, stack
from jaxrep.spec import spec

TRIES = 16
"""Places that are drawn for each picture, of which the one with the least overlap is taken."""
INK = 250
"""A pixel with a channel below it belongs to the picture, not to the white around it."""


@spec
class OpenMojiScenes(Source):
    """Pictures of one side of a split, at random sizes and places on white, with hardly any overlap.

    Beside ``image`` and ``text`` ("a, b and c"), R regions: their names ``region``, ``region_id`` (equal for equal
    names, -1: none), ``region/present`` bool [R], and ``boxes`` float32 [R,4] around what is drawn: x and y of the
    middle, width and height, as shares of the canvas. A region that is not present has no name and a box of zeros.
    """

    attribution: ClassVar[str] = ATTRIBUTION

    split: Literal["compositional", "random"] = "compositional"
    """As of ``OpenMoji``: scenes of its test part show pictures that those of its training part do not."""
    part: Literal["train", "test", "all"] = "train"
    """Which side of the split."""
    image_size: int = 96
    """Height and width of the canvas in pixels."""
    fewest: int = 2
    """Least number of pictures in a scene."""
    most: int = 4
    """Largest number of pictures in a scene, R."""
    smallest: float = 0.25
    """Least side of a picture, as a share of the canvas."""
    largest: float = 0.5
    """Largest side of a picture, as a share of the canvas."""
    count: int = 20_000
    """Number of scenes."""
    seed: int = 0
    """Seed of the scenes; those of a smaller count are the first ones of a larger one."""

    def problems(self) -> Iterator[str]:
        if not 1 <= self.fewest <= self.most:
            yield f"a scene has at least one picture: 1 <= fewest <= most, got {self.fewest} and {self.most}"
        if not 0 < self.smallest <= self.largest <= 1:
            yield f"sides are shares of the canvas: 0 < smallest <= largest <= 1, got {self.smallest}, {self.largest}"
        if self.smallest * self.image_size < 1:
            yield f"smallest is {self.smallest} of {self.image_size} pixels, which is not one"
        if self.count < 1 or self.seed < 0:
            yield f"count is at least 1 and seed at least 0, got {self.count} and {self.seed}"

    def fields(self) -> dict[str, Field]:
        return {
            "image": Field((self.image_size, self.image_size, 3), "uint8"),
            "text": Field((), "str"),
            "region": Field((self.most,), "str"),
            "region_id": Field((self.most,), "int32"),
            "region/present": Field((self.most,), "bool"),
            "boxes": Field((self.most, 4), "float32"),
        }

    def open(self) -> "Scenes":
        size = round(self.largest * self.image_size)
        return Scenes(self, OpenMoji(split=self.split, part=self.part, image_size=size).open())


class Scenes(Examples):
    """Scenes made of ``pictures`` of the largest side that one has."""

    def __init__(self, source: OpenMojiScenes, pictures: Examples):
        self.pictures = pictures
        self._source, self._images, self._names = source, pictures.column("image"), pictures.column("text")
        self._ids = same(self._names)

    def __len__(self) -> int:
        return self._source.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        chosen, random = self._chosen(index)
        image, boxes, _ = self._composed(chosen, random)
        return {"image": image, "boxes": boxes, **self._told(chosen)}

    def shown(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The canvas, and of which of ``pictures`` each pixel is drawn, int64 [H,W], -1 where nothing is."""
        chosen, random = self._chosen(index)
        image, _, region = self._composed(chosen, random)
        return image, np.where(region < 0, -1, chosen[region])

    def column(self, name: str) -> Any:
        """What needs no picture is told without drawing any."""
        if name in ("image", "boxes"):
            return super().column(name)
        return stack([self._told(self._chosen(index)[0])[name] for index in range(len(self))])

    def _chosen(self, index: int) -> tuple[np.ndarray, np.random.Generator]:
        """Which pictures a scene shows, and the generator that goes on to place them."""
        random = np.random.default_rng((self._source.seed, index))
        count = random.integers(self._source.fewest, self._source.most + 1)
        return random.choice(len(self._names), count, replace=False), random

    def _told(self, chosen: np.ndarray) -> dict[str, Any]:
        names, absent = [self._names[i] for i in chosen], self._source.most - len(chosen)
        *others, last = names
        return {
            "text": f"{', '.join(others)} and {last}" if others else last,
            "region": (*names, *[""] * absent),
            "region_id": np.pad(self._ids[chosen], (0, absent), constant_values=-1),
            "region/present": np.arange(self._source.most) < len(chosen),
        }

    def _composed(self, chosen: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """The canvas, the boxes, and the region that each pixel is drawn of, or -1."""
        source, canvas = self._source, self._source.image_size
        image = np.full((canvas, canvas, 3), 255, np.uint8)
        taken, boxes = np.zeros((canvas, canvas), bool), np.zeros((source.most, 4), np.float32)
        drawn = np.full((canvas, canvas), -1)
        sides = np.rint(random.uniform(source.smallest, source.largest, len(chosen)) * canvas).astype(int)
        # Large ones first: small ones find room between them.
        for region in np.argsort(-sides, kind="stable"):
            side = int(sides[region])
            picture = _resized(self._images[chosen[region]], side)
            places = random.integers(0, canvas - side + 1, (TRIES, 2))
            y, x = min(places, key=lambda at: taken[at[0] : at[0] + side, at[1] : at[1] + side].sum())
            here = slice(y, y + side), slice(x, x + side)
            image[here] = np.minimum(image[here], picture)
            taken[here] = True
            drawn[here][picture.min(axis=-1) < INK] = region
            boxes[region] = _box(picture, y, x) / canvas
        return image, boxes, drawn


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BOX))


def _box(picture: np.ndarray, y: int, x: int) -> np.ndarray:
    """In pixels, around what is drawn of a picture [S,S,3] at (y, x); around all of it where it is white."""
    ink = picture.min(axis=-1) < INK
    ink = ink if ink.any() else ~ink
    rows, columns = np.flatnonzero(np.any(ink, axis=1)), np.flatnonzero(np.any(ink, axis=0))
    low = np.array([x + columns[0], y + rows[0]])
    high = np.array([x + columns[-1] + 1, y + rows[-1] + 1])
    return np.concatenate([(low + high) / 2, high - low])
