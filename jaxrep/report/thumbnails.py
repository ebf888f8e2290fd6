"""Embed images in a page as small WebP files in data URIs."""

import base64
import io

import numpy as np
from PIL import Image

SIDE = 96
"""Maximum side length of a thumbnail in pixels. Smaller images keep their size."""
QUALITY = 82
"""WebP quality. The loss is hardly visible at this size."""


def thumbnail_uri(array: np.ndarray | Image.Image) -> str:
    """Return the data URI of an image, uint8 [H,W,3]."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(np.asarray(array))
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
