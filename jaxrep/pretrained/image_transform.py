"""Image transforms of checkpoints, as preprocessor_config.json states them."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from jaxrep.batch import Field
from jaxrep.data.images.decode import to_rgb, upright
from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.errors import UsageError
from jaxrep.pretrained.config import Config
from jaxrep.pretrained.tensors import read_json
from jaxrep.spec import Count, Natural, spec

Filter = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""By the number that Pillow, and so preprocessor_config.json, gives them."""

PROCESSORS = ("processor_config.json", "preprocessor_config.json")

MAX_SIDE = 2**14
"""The largest side of an image in pixels that a file may ask for."""


@spec
class ImageTransform:
    """Resize, center-crop and normalize images; transparent pixels become white, and EXIF orientation is applied."""

    height: Count
    """Height of the result in pixels."""
    width: Count
    """Width of the result in pixels."""
    shorter: Natural = 0
    """Length to which the shorter side is resized before the center crop; 0: resize both sides to the result's."""
    filter: Filter = "bicubic"
    """Interpolation of pixels."""
    half: Literal["down", "even"] = "down"
    """Rounding of a crop that starts at half a pixel: down (transformers), or to the even one (torchvision)."""
    pixels: PixelNorm = PixelNorm()
    """Normalization, which the encoder applies."""

    @property
    def field(self) -> Field:
        """The model's input field."""
        return Field((self.height, self.width, 3), "uint8")

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Return uint8 [height,width,3], before the normalization."""
        image = to_rgb(upright(image))
        resample = Image.Resampling(FILTERS.index(self.filter))
        if not self.shorter:
            return np.asarray(image.resize((self.width, self.height), resample))
        short, long = self.shorter, int(self.shorter * max(image.size) / min(image.size))
        image = image.resize((long, short) if image.width >= image.height else (short, long), resample)
        begin = math.floor if self.half == "down" else round
        # An image that is too small gets a black border.
        left, top = begin((image.width - self.width) / 2), begin((image.height - self.height) / 2)
        return np.asarray(image.crop((left, top, left + self.width, top + self.height)))


def nearest_transform(height: int, width: int, pixels: PixelNorm) -> ImageTransform:
    """Return the files' nearest transform to ``Model.preprocess``: a center crop, resized by means over pixels."""
    shorter = height if height == width else 0  # a file can say so of squares alone
    return ImageTransform(height=height, width=width, shorter=shorter, filter="bilinear", pixels=pixels)


def read_transform(folder: Path) -> ImageTransform | None:
    """Read the image processor of a folder; None without one. Other processors are named on standard error.

    As in transformers, the one in processor_config.json is valid, and else that of preprocessor_config.json.

    Raises:
        UsageError: the file does not state a size and a filter.
    """
    _tell_unread(folder)
    for name in PROCESSORS:
        content = read_json(folder / name) if (folder / name).is_file() else {}
        values = content.get("image_processor", content if name == PROCESSORS[-1] else {})
        if not isinstance(values, dict):
            raise UsageError(f"{folder / name}: 'image_processor' should be an object, and is {values!r}")
        if values:
            return _transform(values, folder / name)
    return None


def write_transform(transform: ImageTransform, folder: Path, *, normalize: bool = True) -> None:
    """Write preprocessor_config.json; ``normalize=False``: images stay uint8, for a model that normalizes them."""
    sides = {"height": transform.height, "width": transform.width}
    content: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": transform.shorter} if transform.shorter else sides,
        "resample": FILTERS.index(transform.filter),
        "do_center_crop": bool(transform.shorter),
        "crop_size": sides,
        "do_rescale": normalize,
        "rescale_factor": 1 / 255,
        "do_normalize": normalize,
    }
    if normalize:
        content |= {"image_mean": list(transform.pixels.mean), "image_std": list(transform.pixels.std)}
    (folder / PROCESSORS[-1]).write_text(json.dumps(content, indent=1) + "\n")


def _tell_unread(folder: Path) -> None:
    """Print which processors of a folder are not read."""
    combined = folder / PROCESSORS[0]
    parts = read_json(combined) if combined.is_file() else {}
    unread = [f"{name} in {combined}" for name in parts if name != "image_processor" and isinstance(parts[name], dict)]
    unread += [str(file) for file in sorted(folder.glob("*processor_config.json")) if file.name not in PROCESSORS]
    if unread:
        print(f"not read: {', '.join(unread)}", file=sys.stderr)


def _transform(values: Mapping[str, Any], file: Path) -> ImageTransform:
    if values.get("do_normalize", True):
        pixels = Config(values, file).pixel_norm("image_mean", "image_std")
    else:
        pixels = PixelNorm(mean=(0.0,) * 3, std=(1.0,) * 3)
    size = _sides(values.get("size"), file)
    crop = _sides(values.get("crop_size"), file) if values.get("do_center_crop") else {}
    if crop and isinstance(values["size"], int):  # older files: a number is the shorter side if a crop follows
        size = {"shortest_edge": values["size"]}
    height, width = ({**size, **crop}.get(side, 0) for side in ("height", "width"))
    shorter = size.get("shortest_edge", 0)
    if not shorter and any(size.get(side) != length for side, length in crop.items()):
        height = 0  # squashed to one size and cropped to another: not supported
    number = values.get("resample", 3)
    if not (height and width) or number not in range(len(FILTERS)):
        raise UsageError(
            f"{file}: no image size and filter follow from size {values.get('size')!r}, crop_size "
            f"{values.get('crop_size')!r} and resample {number!r}"
        )
    return ImageTransform(height=height, width=width, shorter=shorter, filter=FILTERS[number], pixels=pixels)


def _sides(value: Any, file: Path) -> dict[str, int]:
    """Return lengths by name; a number is the side of a square."""
    if isinstance(value, int):
        value = {"height": value, "width": value}
    if not isinstance(value, dict) or not all(type(x) is int and 0 < x <= MAX_SIDE for x in value.values()):
        raise UsageError(
            f"{file}: a size is a number of pixels up to {MAX_SIDE} or an object of them, and is {value!r}"
        )
    return value
