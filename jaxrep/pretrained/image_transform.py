"""From a picture to the pixels that a checkpoint was trained on, as preprocessor_config.json says."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from jaxrep.data.images.image import opaque
from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.errors import UsageError
from jaxrep.pretrained.tensors import read_json
from jaxrep.spec import spec

Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By the number that Pillow, and so preprocessor_config.json, calls them."""


@spec
class ImageTransform:
    """Resize, cut out the middle, normalize. What is transparent becomes white, and EXIF turns the picture."""

    height: int
    """Height of the result in pixels."""
    width: int
    """Width of the result in pixels."""
    shorter: int = 0
    """Length to which the shorter side is resized before the middle is cut out; 0: both sides are, to the result's."""
    filter: Filter = "bicubic"
    """How pixels are interpolated."""
    half: Literal["down", "even"] = "down"
    """Where the middle begins at half a pixel: at the one before (transformers), or at the even one (torchvision)."""
    pixels: PixelNorm = PixelNorm()
    """Normalization, which the encoder applies."""

    def problems(self) -> Iterator[str]:
        if min(self.height, self.width) < 1 or self.shorter < 0:
            yield f"height, width and shorter count pixels, and are {self.height}, {self.width} and {self.shorter}"

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """uint8 [height,width,3], before the normalization."""
        picture = opaque(ImageOps.exif_transpose(picture))
        resample = Image.Resampling(FILTERS.index(self.filter))
        if not self.shorter:
            return np.asarray(picture.resize((self.width, self.height), resample))
        short, long = self.shorter, int(self.shorter * max(picture.size) / min(picture.size))
        wide = picture.width >= picture.height
        picture = picture.resize((long, short) if wide else (short, long), resample)
        begin = math.floor if self.half == "down" else round
        # A picture that is too small gets a black border.
        left, top = begin((picture.width - self.width) / 2), begin((picture.height - self.height) / 2)
        return np.asarray(picture.crop((left, top, left + self.width, top + self.height)))


def read_transform(folder: Path) -> ImageTransform | None:
    """What preprocessor_config.json says; None: there is none. Raises UsageError."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    found = read_json(file)
    found = found.get("image_processor", found)
    if found.get("do_normalize", True):
        pixels = PixelNorm(mean=channels(found, "image_mean", file), std=channels(found, "image_std", file))
    else:
        pixels = PixelNorm(mean=(0.0,) * 3, std=(1.0,) * 3)
    size = _sides(found.get("size"), file)
    crop = _sides(found.get("crop_size"), file) if found.get("do_center_crop") else {}
    if crop and isinstance(found["size"], int):  # older files: a number is the shorter side where a crop follows
        size = {"shortest_edge": found["size"]}
    height, width = ({**size, **crop}.get(side, 0) for side in ("height", "width"))
    shorter = size.get("shortest_edge", 0)
    if not shorter and any(size.get(side) != length for side, length in crop.items()):
        height = 0  # squashed to one size and cut to another: nobody's transform
    number = found.get("resample", 3)
    if not (height and width) or number not in range(len(FILTERS)):
        raise UsageError(
            f"{file} says of the size {found.get('size')!r}, crop_size {found.get('crop_size')!r} and "
            f"resample {number!r}, from which no size and filter of pictures follow"
        )
    return ImageTransform(height=height, width=width, shorter=shorter, filter=FILTERS[number], pixels=pixels)


def channels(found: Mapping[str, Any], name: str, file: Path) -> tuple[float, ...]:
    """A mean or a standard deviation of three channels. Raises UsageError."""
    value = found.get(name)
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(x, int | float) for x in value):
        raise UsageError(f"{file}: '{name}' should be three numbers, and is {value!r}")
    return tuple(map(float, value))


def _sides(value: Any, file: Path) -> dict[str, int]:
    """Lengths by name; a number is a square's side."""
    if isinstance(value, int):
        return {"height": value, "width": value}
    if not isinstance(value, dict) or not all(isinstance(x, int) for x in value.values()):
        raise UsageError(f"{file}: a size is a number of pixels or an object of them, and is {value!r}")
    return value
