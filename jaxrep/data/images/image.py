"""From the bytes of a picture to an array of one size: only what the array needs is decoded.

A JPEG is decoded by libjpeg-turbo at the least of 1/8, 1/4, 1/2 and 1 that still covers the result (``jpeg``), then its
box is cut out and resized by OpenCV; any other format is decoded by Pillow. All leave the interpreter free, so threads
decode side by side. Sizes are checked in the header, before a pixel is decoded.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import TypeVar

import cv2
import numpy as np
from jaxtyping import Int32, UInt8
from PIL import ExifTags, Image

from jaxrep.data.images import jpeg
from jaxrep.data.images.crop import Box, HostCenterCrop, HostCrop

T = TypeVar("T")

# The loader has a thread or a process a picture, which must not each start threads of their own.
cv2.setNumThreads(1)

MAX_PIXELS = 2**26
"""Of a picture before it is resized: more are a mistake, or meant to exhaust memory."""
MAX_BYTES = 2**27
"""Of a picture's file."""
ALIASES = 1.5
"""Shrinking by as much as this needs the mean over pixels; below it, interpolation between four reaches them all."""

ORIENTATIONS = range(1, 9)  # EXIF's
UPRIGHT, TRANSPOSED = 1, 5  # from 5 on rows and columns are exchanged
UPSIDE_DOWN, MIRRORED = (3, 4, 6, 7), (2, 3, 7, 8)

CENTER = HostCenterCrop()


def image(
    content: bytes,
    height: int,
    width: int,
    crop: HostCrop = CENTER,
    key: int | None = None,
    into: UInt8[np.ndarray, "height width 3"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The box of a picture that ``crop`` chooses by ``key``, as RGB of a size; in any format that Pillow reads.

    Of an animation, the first frame. ``into``: where the result is written, a row of a batch; without it, a new array.

    Raises ValueError: the picture is damaged (also where a decoder would only warn), too large, of an unknown format.
    """
    if size := jpeg.plain_size(content):
        with _in_words(content):
            check_size(*size)
            box = crop.box(*size, width / height, key)
            return resize(jpeg.decoded(content, size, box, height, width), height, width, into)
    found = opened(content, lambda picture: fitted(picture, height, width, crop, key, content))
    if into is None:
        return found
    into[...] = found
    return into


def label_map(
    content: bytes, height: int, width: int, crop: HostCrop = CENTER, key: int | None = None
) -> Int32[np.ndarray, "height width"]:
    """The class numbers in the box of a picture of one channel, or of a palette, each pixel the nearest one's.

    Raises ValueError: as ``image``, or the picture has several channels.
    """

    def nearest(picture: Image.Image) -> np.ndarray:
        box = crop.box(*picture.size, width / height, key)
        return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST, box))

    found = opened(content, nearest)
    if found.ndim != 2:
        raise ValueError(
            f"a map of classes has one channel, the class of each pixel, and this one has {found.shape[2]}"
        )
    return found.astype(np.int32)


def opened(content: bytes, read: Callable[[Image.Image], T]) -> T:
    """``read`` of the picture that a file holds. Raises ValueError: it is damaged, of an unknown format, too large."""
    with _in_words(content), Image.open(io.BytesIO(content)) as picture:  # reads the header
        check_size(*picture.size)
        return read(picture)


@contextlib.contextmanager
def _in_words(content: bytes) -> Iterator[None]:
    """Makes whatever decoders say of a file a ValueError in words."""
    if not content:
        raise ValueError("the picture is empty, of 0 bytes")
    if len(content) > MAX_BYTES:
        raise ValueError(f"the picture's file has {len(content):,} bytes, more than the {MAX_BYTES:,} that are decoded")
    try:
        yield
    except TooLarge:
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"the picture is not decoded, for its size: {error}") from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise errors of a dozen types
        unknown = isinstance(error, Image.UnidentifiedImageError)
        told = "unknown format" if unknown else f"{type(error).__name__}: {error}"
        raise ValueError(f"the picture cannot be decoded ({told})") from error


class TooLarge(ValueError):
    """A picture of more pixels than are decoded."""


def check_size(width: int, height: int) -> None:
    """Raises TooLarge."""
    if width * height > MAX_PIXELS:
        size = f"{width:,} x {height:,}"
        raise TooLarge(f"the picture has {size} pixels, more than the {MAX_PIXELS:,} that are decoded")


def fitted(
    picture: Image.Image,
    height: int,
    width: int,
    crop: HostCrop = CENTER,
    key: int | None = None,
    content: bytes = b"",
) -> UInt8[np.ndarray, "height width 3"]:
    """RGB of a size from a picture that is open. It is turned as EXIF says; what is transparent becomes white.

    ``content``: its file, where that is at hand: a JPEG is then decoded at reduced scale.
    """
    check_size(*picture.size)
    said = picture.getexif().get(ExifTags.Base.Orientation)
    turn = said if isinstance(said, int) and said in ORIENTATIONS else UPRIGHT
    turned = turn >= TRANSPOSED
    upright = (picture.height, picture.width) if turned else picture.size
    box = stored(crop.box(*upright, width / height, key), picture.width, picture.height, turn)
    size = (width, height) if turned else (height, width)
    if content and picture.format in ("JPEG", "MPO"):
        pixels = jpeg.decoded(content, picture.size, box, *size, inks=picture.mode == "CMYK")
    else:
        pixels = np.asarray(opaque(picture.crop(box)))
    pixels = resize(pixels, *size)
    pixels = pixels[:: -1 if turn in UPSIDE_DOWN else 1, :: -1 if turn in MIRRORED else 1]
    return np.ascontiguousarray(pixels.transpose(1, 0, 2) if turned else pixels)


def stored(box: Box, width: int, height: int, turn: int) -> Box:
    """Where a box of the upright picture lies in the stored one, of ``width`` x ``height``."""
    left, top, right, bottom = box if turn < TRANSPOSED else (box.top, box.left, box.bottom, box.right)
    if turn in MIRRORED:
        left, right = width - right, width - left
    if turn in UPSIDE_DOWN:
        top, bottom = height - bottom, height - top
    return Box(left, top, right, bottom)


def opaque(picture: Image.Image) -> Image.Image:
    """RGB, with white where the picture is transparent."""
    if picture.mode.startswith("I;16"):  # Pillow would clip 16 bits at 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def resize(
    pixels: UInt8[np.ndarray, "h w 3"], height: int, width: int, into: UInt8[np.ndarray, "height width 3"] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """To a size: an axis that shrinks much by the mean over pixels, so that nothing aliases; else linearly.

    ``into``: where the result is written; without it, a new array.
    """
    h, w, _ = pixels.shape
    into = np.empty((height, width, 3), np.uint8) if into is None else into
    if max(h / height, w / width) >= ALIASES:
        pixels = cv2.resize(pixels, (min(w, width), min(h, height)), interpolation=cv2.INTER_AREA)
    if pixels.shape[:2] == (height, width):
        into[...] = pixels
    else:
        cv2.resize(pixels, (width, height), into, interpolation=cv2.INTER_LINEAR)
    return into
