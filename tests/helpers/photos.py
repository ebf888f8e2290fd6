"""Make JPEGs of any size and number from the photographs of scikit-image."""

import functools
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


@functools.cache
def photographs() -> list[Image.Image]:
    """Return five RGB images of 451 x 300 to 741 x 500 pixels: a person, an animal, things, a machine, a sky."""
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("scikit-image is not installed: it brings the photographs (extras: test, bench)")
    return [Image.open(Path(package.origin).parent / "data" / name).convert("RGB") for name in NAMES]


def images(count: int, width: int, height: int, seed: int = 0) -> Iterator[Image.Image]:
    """Yield random crops of the photographs, mirrored or not, at one size."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        whole = photographs()[number % len(NAMES)]
        share = rng.uniform(0.7, 1.0)
        w = share * min(whole.width, whole.height * width / height)
        h = w * height / width
        left, top = rng.uniform(0, whole.width - w), rng.uniform(0, whole.height - h)
        part = whole.resize((width, height), Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
        yield part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def jpegs(count: int, width: int, height: int, quality: int = 90, seed: int = 0) -> Iterator[bytes]:
    """Yield ``images`` as JPEG files, with colors at half the resolution, as most JPEGs have."""
    for image in images(count, width, height, seed):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        yield file.getvalue()
