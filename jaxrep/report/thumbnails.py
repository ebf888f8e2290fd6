"""Pictures inside a page: thumbnails as data URIs, each picture once however often it is shown."""

import base64
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

SIDE = 96
"""Pixels of a thumbnail's longer side; smaller pictures keep their size."""
QUALITY = 82
"""Of WebP: there is hardly a difference to be seen at this size."""


@dataclass
class Album:
    """The pictures of a page, by number."""

    uris: list[str] = field(default_factory=list)
    _known: dict[str, int] = field(default_factory=dict)

    def add(self, picture: np.ndarray | Image.Image) -> int:
        """The number of a picture, uint8 [H,W,3]; one that is here already keeps its number."""
        uri = thumbnail(picture)
        if uri not in self._known:
            self._known[uri] = len(self.uris)
            self.uris.append(uri)
        return self._known[uri]


def thumbnail(picture: np.ndarray | Image.Image) -> str:
    """A picture as the data URI of a small WebP file."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    image = image.convert("RGB")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
