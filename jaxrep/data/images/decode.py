"""Decode images to arrays of one size; only the pixels that the array needs are decoded.

libjpeg-turbo decodes a JPEG at the smallest of 1/8, 1/4, 1/2 and 1 that still covers the result (``jpeg``), then OpenCV
resizes the box. Pillow decodes other formats. All release the interpreter, so that threads decode in parallel. The
size is checked in the header, before pixels are decoded.
"""

import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import ExifTags, Image

from jaxrep.data.images import jpeg
from jaxrep.data.images.crop import Box, HostCenterCrop, HostCrop
from jaxrep.data.images.png import pixel_chunks

T = TypeVar("T")

MAX_PIXELS = 2**26
"""Largest image before it is resized: a larger one is a mistake, or meant to exhaust memory."""
MAX_BYTES = 2**27
"""Largest file of an image."""
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that are decoded: those of photographs and drawings. Some of Pillow's others start a program."""
AREA_FACTOR = 1.5
"""Shrink factor from which pixels are averaged; below, interpolation between four pixels reaches all of them."""

UPRIGHT, TRANSPOSED = 1, 5  # EXIF's orientations; from 5 on rows and columns are exchanged
UPSIDE_DOWN, MIRRORED = (3, 4, 6, 7), (2, 3, 7, 8)
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientation -> what makes the image upright."""

CENTER = HostCenterCrop()


def decode_image(
    content: bytes,
    height: int,
    width: int,
    crop: HostCrop = CENTER,
    key: int | None = None,
    into: UInt8[np.ndarray, "height width 3"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode the box of an image that ``crop`` chooses by ``key``, as RGB; any of ``FORMATS``.

    An animation gives its first frame. ``into``: array for the result, a row of a batch; None: a new array.

    Raises ValueError: the image is damaged (also where a decoder would only warn), too large, or of unknown format.
    """
    into = np.empty((height, width, 3), np.uint8) if into is None else into
    if size := jpeg.plain_size(content):
        check_size(*size)
        box = crop.box(*size, width / height, key)
        with _explain_errors(content):
            return resize(jpeg.decode_box(content, size, box, height, width), height, width, into)
    into[...] = open_image(content, lambda image: fit_image(image, height, width, crop, key, content))
    return into


def decode_label_map(
    content: bytes, height: int, width: int, crop: HostCrop = CENTER, key: int | None = None
) -> Int32[np.ndarray, "height width"]:
    """Decode the class numbers in the box of a one-channel or palette image; each pixel is the nearest one.

    Raises ValueError: as ``decode_image``, or the image has several channels.
    """

    def resize_nearest(image: Image.Image) -> Image.Image:
        image = upright(image)
        return image.resize((width, height), Image.Resampling.NEAREST, crop.box(*image.size, width / height, key))

    classes = np.asarray(open_image(content, resize_nearest), np.int32)
    if classes.ndim != 2:
        raise ValueError(
            f"a map of classes has one channel, the class of each pixel, and this one has {classes.shape[2]}"
        )
    return classes


def open_image(content: bytes, read: Callable[[Image.Image], T]) -> T:
    """Return ``read`` of the image in a file. Raises ValueError: it is damaged, of unknown format, or too large.

    ``read`` is called again if metadata of a PNG were in its way.
    """
    try:
        return _open(content, read)
    except ValueError:
        if (pixels := pixel_chunks(content)) == content:
            raise
        return _open(pixels, read)


def _open(content: bytes, read: Callable[[Image.Image], T]) -> T:
    with _explain_errors(content):
        image = Image.open(io.BytesIO(content), formats=FORMATS)  # reads the header
    check_size(*image.size)
    with _explain_errors(content), image:
        return read(image)


@contextlib.contextmanager
def _explain_errors(content: bytes) -> Iterator[None]:
    """Turn errors of decoders into a ValueError with an explanation."""
    if not content:
        raise ValueError("the image is empty, of 0 bytes")
    if len(content) > MAX_BYTES:
        raise ValueError(f"the image's file has {len(content):,} bytes, more than the {MAX_BYTES:,} that are decoded")
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(f"the image is not decoded, for its size: {error}") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise errors of a dozen types
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"unknown format; known are {', '.join(FORMATS)}" if unknown else f"{type(error).__name__}: {error}"
        raise ValueError(f"the image cannot be decoded ({reason})") from error


def check_size(width: int, height: int) -> None:
    """Check the size of an image. Raises ValueError: it has more than ``MAX_PIXELS`` pixels."""
    if width * height > MAX_PIXELS:
        raise ValueError(f"the image has {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} that are decoded")


def fit_image(
    image: Image.Image,
    height: int,
    width: int,
    crop: HostCrop = CENTER,
    key: int | None = None,
    content: bytes = b"",
) -> UInt8[np.ndarray, "height width 3"]:
    """Crop and resize an open image to RGB. EXIF's orientation is applied; transparent pixels become white.

    ``content``: the file of the image, if available: a JPEG is then decoded at a reduced scale.
    """
    check_size(*image.size)
    turn = _orientation(image)
    turned = turn >= TRANSPOSED
    box = stored_box(crop.box(*upright_size(image), width / height, key), image.width, image.height, turn)
    size = (width, height) if turned else (height, width)
    if content and image.format in ("JPEG", "MPO"):
        pixels = jpeg.decode_box(content, image.size, box, *size, cmyk=image.mode == "CMYK")
    else:
        pixels = np.asarray(to_rgb(image.crop(box)))
    pixels = resize(pixels, *size)
    pixels = pixels[:: -1 if turn in UPSIDE_DOWN else 1, :: -1 if turn in MIRRORED else 1]
    return np.ascontiguousarray(pixels.transpose(1, 0, 2) if turned else pixels)


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation of the pixels as Pillow decodes them. Broken metadata state none."""
    if image.format == "TIFF":  # its decoder turns it
        image.load()
    try:
        orientation: Any = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # parsers of damaged EXIF raise errors of many types
        return UPRIGHT
    return orientation if orientation in TURNS else UPRIGHT


def upright(image: Image.Image) -> Image.Image:
    """Apply EXIF's orientation to an image."""
    orientation = _orientation(image)
    return image if orientation == UPRIGHT else image.transpose(TURNS[orientation])


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height after EXIF's orientation is applied, mostly without decoding pixels."""
    turned = _orientation(image) >= TRANSPOSED
    return (image.height, image.width) if turned else image.size


def stored_box(box: Box, width: int, height: int, turn: int) -> Box:
    """Convert a box of the upright image to the stored image of ``width`` x ``height``."""
    left, top, right, bottom = box if turn < TRANSPOSED else (box.top, box.left, box.bottom, box.right)
    if turn in MIRRORED:
        left, right = width - right, width - left
    if turn in UPSIDE_DOWN:
        top, bottom = height - bottom, height - top
    return Box(left, top, right, bottom)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB; transparent pixels become white."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def resize(
    pixels: UInt8[np.ndarray, "h w 3"], height: int, width: int, into: UInt8[np.ndarray, "height width 3"] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Resize an image: average pixels along an axis that shrinks much, against aliasing; otherwise interpolate.

    ``into``: array for the result; None: a new array.
    """
    h, w, _ = pixels.shape
    into = np.empty((height, width, 3), np.uint8) if into is None else into
    if max(h / height, w / width) >= AREA_FACTOR:
        pixels = _opencv().resize(pixels, (min(w, width), min(h, height)), interpolation=_opencv().INTER_AREA)
    if pixels.shape[:2] == (height, width):
        into[...] = pixels
    else:
        _opencv().resize(pixels, (width, height), into, interpolation=_opencv().INTER_LINEAR)
    return into


@functools.cache
def _opencv() -> Any:
    """Return OpenCV, which is slow to import. The loader has a thread or a process per image: it may start no more."""
    import cv2

    cv2.setNumThreads(1)
    return cv2
