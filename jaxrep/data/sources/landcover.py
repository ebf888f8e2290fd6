"""Make maps of land cover from a seed, as a satellite with ten bands would see them, and the spectra of single pixels.

Bands are those of Sentinel-2 with pixels of 10 and 20 meters, in order of wavelength: blue, green, red, three of the
red edge, near infrared (wide, narrow), and two of the short-wave infrared. Spectra have the shape of those of such
materials, but no sensor measured them.
"""

from typing import Any, Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Columns, Examples, Source
from jaxrep.spec import Count, Natural, NonNegative, Positive, Share, spec

MATERIALS = {
    "water": (0.06, 0.06, 0.04, 0.03, 0.03, 0.03, 0.02, 0.02, 0.01, 0.01),
    "forest": (0.03, 0.05, 0.03, 0.08, 0.21, 0.26, 0.28, 0.30, 0.15, 0.07),
    "crops": (0.03, 0.05, 0.03, 0.11, 0.34, 0.45, 0.48, 0.50, 0.26, 0.13),
    "soil": (0.08, 0.11, 0.15, 0.18, 0.21, 0.23, 0.26, 0.28, 0.36, 0.31),
    "sand": (0.20, 0.26, 0.32, 0.34, 0.36, 0.38, 0.40, 0.41, 0.48, 0.45),
    "buildings": (0.15, 0.17, 0.18, 0.19, 0.20, 0.20, 0.21, 0.21, 0.23, 0.21),
}
"""Share of the light that a material reflects in each band. Forest and crops are alike in the visible, bands 0 to 2."""
BANDS = len(MATERIALS["water"])
WAVES = 16
"""Waves of random direction and phase in a smooth random surface."""


@spec
class Landcover(Source):
    """Make pictures of land cover, ``image`` uint8 [H,W,10] (255: all light is reflected), with their materials.

    ``mask`` int32 [H,W] is the material with the largest share of each pixel, and ``label`` the material with the most
    pixels. Shares are smooth, so that materials mix at their borders. Light varies over a picture, the same in all
    bands, and each band of each pixel has noise.
    """

    image_size: Count = 96
    """Height and width in pixels."""
    detail: Positive = 3.0
    """Largest number of waves of a material's surface along a side: more give smaller areas."""
    mixing: Positive = 0.15
    """Width of borders: the difference of two surfaces (of unit deviation) at which the shares are 1 to e."""
    light: Share = 0.3
    """Deviation of the logarithm of the light over a picture."""
    noise: NonNegative = 0.01
    """Deviation of the noise of each band, as a share of the light."""
    count: Count = 2000
    """Number of pictures."""
    part: Literal["train", "test"] = "train"
    """Side of the split: pictures of the two parts share no draw."""
    seed: Natural = 0
    """Seed of the pictures; a smaller count gives the first pictures of a larger one."""

    def fields(self) -> dict[str, Field]:
        size = self.image_size
        return {
            "image": Field((size, size, BANDS), "uint8"),
            "mask": Field((size, size), "int32", len(MATERIALS)),
            "label": Field((), "int32", len(MATERIALS)),
        }

    def open(self) -> "Maps":
        return Maps(self)


class Maps(Examples):
    """Make pictures of land cover when they are read."""

    def __init__(self, source: Landcover):
        self._source = source
        self.classes = {"mask": list(MATERIALS), "label": list(MATERIALS)}

    def __len__(self) -> int:
        return self._source.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        reflected, mask, _ = self.draw(index)
        label = np.bincount(mask.ravel(), minlength=len(MATERIALS)).argmax()
        image = np.rint(reflected.clip(0, 1) * 255).astype(np.uint8)
        return {"image": image, "mask": mask, "label": np.int32(label)}

    def draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        """Return reflected light float32 [H,W,10], the map int32 [H,W], and the generator that drew them."""
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        source, spectra = self._source, np.array(list(MATERIALS.values()))
        random = np.random.default_rng((source.seed, source.part == "test", index))
        size, count = source.image_size, len(spectra)
        height = surfaces(random, count, size, source.detail) + random.normal(0, 1, (count, 1, 1))
        share = np.exp((height - height.max(axis=0)) / source.mixing)
        share /= share.sum(axis=0)
        light = np.exp(source.light * surfaces(random, 1, size, 1.0)[0])
        reflected = np.einsum("khw,kb->hwb", share, spectra) * light[..., None]
        reflected += random.normal(0, source.noise, reflected.shape)
        return reflected.astype(np.float32), height.argmax(axis=0).astype(np.int32), random


@spec
class LandcoverSpectra(Source):
    """Take single pixels of maps of land cover: ``spectrum`` float32 [10], and its ``material``.

    Pixels are drawn for each map, and those of one map follow each other.
    """

    maps: Landcover = Landcover(image_size=32, count=200)
    """The maps."""
    pixels: Count = 50
    """Pixels of each map, drawn with replacement."""

    def fields(self) -> dict[str, Field]:
        return {"spectrum": Field((BANDS,), "float32"), "material": Field((), "int32", len(MATERIALS))}

    def open(self) -> Columns:
        maps, spectra, materials = self.maps.open(), [], []
        for index in range(len(maps)):
            reflected, mask, random = maps.draw(index)
            chosen = random.integers(0, mask.size, self.pixels)
            spectra.append(reflected.reshape(-1, BANDS)[chosen])
            materials.append(mask.ravel()[chosen])
        columns = {"spectrum": np.concatenate(spectra), "material": np.concatenate(materials)}
        return Columns(columns, {"material": list(MATERIALS)})


def surfaces(random: np.random.Generator, count: int, size: int, detail: float) -> np.ndarray:
    """Return ``count`` smooth random surfaces of about zero mean and unit deviation, float64 [count,size,size].

    Each is a sum of waves, with up to ``detail`` of them along a side.
    """
    waves = random.uniform(-detail, detail, (2, count, WAVES, 1)) * np.arange(size) / size
    phase = random.uniform(0, 1, (count, WAVES, 1))
    rows, columns = np.exp(2j * np.pi * (waves[0] + phase)), np.exp(2j * np.pi * waves[1])
    # einsum without a path calls no BLAS, whose threads wait for each other in the threads of a loader
    return np.einsum("kwi,kwj->kij", rows, columns).real * np.sqrt(2 / WAVES)
