"""Embed images in a page as thumbnails in data URIs. A repeated image is stored once."""

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

SIDE = 96
"""Maximum side length of a thumbnail in pixels. Smaller images keep their size."""
QUALITY = 82
"""WebP quality. The loss is hardly visible at this size."""


@dataclass
class Thumbnails:
    """Number the images of a page."""

    uris: list[str] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def add(self, image: np.ndarray | Image.Image) -> int:
        """Return the number of an image, uint8 [H,W,3]. Equal images have the same number."""
        uri = thumbnail_uri(image)
        if uri not in self._numbers:
            self._numbers[uri] = len(self.uris)
            self.uris.append(uri)
        return self._numbers[uri]


def thumbnail_uri(array: np.ndarray | Image.Image) -> str:
    """Return the data URI of a small WebP file."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(np.asarray(array))
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
