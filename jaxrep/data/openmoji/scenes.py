"""Compose scenes of several emojis from a seed, with a caption, and a name and a box per emoji."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxrep.batch import Field
from jaxrep.data.openmoji.emoji import OpenMoji, OpenMojiSource, factorize
from jaxrep.data.source import Examples, stack
from jaxrep.spec import Count, Natural, Share, spec

TRIES = 16
"""Random places per emoji; the one with the least overlap is used."""
INK = 250
"""A pixel with a channel below this value belongs to the emoji, not to the white around it."""


@spec
class OpenMojiScenes(OpenMojiSource):
    """Place emojis of one side of a split at random sizes and places on white, with hardly any overlap.

    Scenes of the test part show other emojis than scenes of the training part.

    The fields are ``image``, ``text`` ("a, b and c"), and R regions: their names ``region``, ``region_id`` (equal for
    equal names, -1: none), ``region/present`` bool [R], and ``boxes`` float32 [R,4] around the drawn pixels: x and y of
    the middle, width and height, as shares of the canvas. A region that is not present has no name and a box of zeros.
    """

    image_size: Count = 96
    """Height and width of the canvas in pixels."""
    min_emojis: Count = 2
    """Smallest number of emojis in a scene."""
    max_emojis: Count = 4
    """Largest number of emojis in a scene, R."""
    min_size: Share = 0.25
    """Smallest side of an emoji, as a share of the canvas."""
    max_size: Share = 0.5
    """Largest side of an emoji, as a share of the canvas."""
    count: Count = 20_000
    """Number of scenes."""
    seed: Natural = 0
    """Seed of the scenes; a smaller count gives the first scenes of a larger one."""

    def problems(self) -> Iterator[str]:
        if self.min_emojis > self.max_emojis:
            yield f"min_emojis is at most max_emojis, got {self.min_emojis} and {self.max_emojis}"
        if self.min_size > self.max_size:
            yield f"min_size is at most max_size, got {self.min_size} and {self.max_size}"
        if self.min_size * self.image_size < 1:
            yield f"min_size is {self.min_size} of {self.image_size} pixels, which is less than one"

    def fields(self) -> dict[str, Field]:
        return {
            "image": Field((self.image_size, self.image_size, 3), "uint8"),
            "text": Field((), "str"),
            "region": Field((self.max_emojis,), "str"),
            "region_id": Field((self.max_emojis,), "int32"),
            "region/present": Field((self.max_emojis,), "bool"),
            "boxes": Field((self.max_emojis, 4), "float32"),
        }

    def open(self) -> "Scenes":
        size = round(self.max_size * self.image_size)
        return Scenes(self, OpenMoji(split=self.split, part=self.part, image_size=size).open())


class Scenes(Examples):
    """Compose scenes of ``emojis``, whose images have the largest side."""

    def __init__(self, source: OpenMojiScenes, emojis: Examples):
        self.emojis = emojis
        self._source, self._images, self._names = source, emojis.column("image"), emojis.column("text")
        self._ids = factorize(self._names)

    def __len__(self) -> int:
        return self._source.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        chosen, random = self._choose(index)
        image, boxes, _ = self._compose(chosen, random)
        return {"image": image, "boxes": boxes, **self._texts(chosen)}

    def image_and_emojis(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the canvas, and the index of the emoji at each pixel, int64 [H,W]; -1: none."""
        chosen, random = self._choose(index)
        image, _, region = self._compose(chosen, random)
        return image, np.where(region < 0, -1, chosen[region])

    def column(self, name: str) -> Any:
        """Return a column; only ``image`` and ``boxes`` draw the scenes."""
        if name in ("image", "boxes"):
            return super().column(name)
        return stack([self._texts(self._choose(index)[0])[name] for index in range(len(self))])

    def _choose(self, index: int) -> tuple[np.ndarray, np.random.Generator]:
        """Return the indices of a scene's emojis, and the generator that places them."""
        random = np.random.default_rng((self._source.seed, index))
        count = random.integers(self._source.min_emojis, self._source.max_emojis + 1)
        return random.choice(len(self._names), count, replace=False), random

    def _texts(self, chosen: np.ndarray) -> dict[str, Any]:
        names, absent = [self._names[i] for i in chosen], self._source.max_emojis - len(chosen)
        *others, last = names
        return {
            "text": f"{', '.join(others)} and {last}" if others else last,
            "region": (*names, *[""] * absent),
            "region_id": np.pad(self._ids[chosen], (0, absent), constant_values=-1),
            "region/present": np.arange(self._source.max_emojis) < len(chosen),
        }

    def _compose(self, chosen: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return the canvas, the boxes, and the region of each pixel, or -1."""
        source, canvas = self._source, self._source.image_size
        image = np.full((canvas, canvas, 3), 255, np.uint8)
        covered, boxes = np.zeros((canvas, canvas), bool), np.zeros((source.max_emojis, 4), np.float32)
        regions = np.full((canvas, canvas), -1)
        sides = np.rint(random.uniform(source.min_size, source.max_size, len(chosen)) * canvas).astype(int)
        # Large ones first: small ones fit between them.
        for region in np.argsort(-sides, kind="stable"):
            side = int(sides[region])
            emoji = Image.fromarray(self._images[chosen[region]])
            emoji = np.asarray(emoji.resize((side, side), Image.Resampling.BOX))
            places = random.integers(0, canvas - side + 1, (TRIES, 2))
            y, x = min(places, key=lambda at: covered[at[0] : at[0] + side, at[1] : at[1] + side].sum())
            area = slice(y, y + side), slice(x, x + side)
            image[area] = np.minimum(image[area], emoji)
            covered[area] = True
            regions[area][emoji.min(axis=-1) < INK] = region
            boxes[region] = _box(emoji, y, x) / canvas
        return image, boxes, regions


def _box(emoji: np.ndarray, y: int, x: int) -> np.ndarray:
    """Return the box in pixels around the ink of an emoji [S,S,3] at (y, x); around all of it if it is white."""
    ink = emoji.min(axis=-1) < INK
    rows, columns = np.nonzero(ink if ink.any() else ~ink)
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max() + 1, rows.max() + 1])
    return np.concatenate([(low + high) / 2 + (x, y), high - low])
