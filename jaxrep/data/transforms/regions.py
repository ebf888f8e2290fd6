"""Parse descriptions of image regions with their boxes from a text beside the image."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.images.crop import HostResize
from jaxrep.data.sources.encoded import EncodedSource
from jaxrep.data.transforms.base import FieldTransform, WrappedSource
from jaxrep.errors import JaxrepError
from jaxrep.spec import Count, spec


@spec
class ParseRegions(FieldTransform):
    """Parse a text of lines ``x y width height description``: shares of the image's sides; x and y of the box center.

    Shares are those of the whole image, so the source must not crop it (``HostResize``).

    Adds ``region`` (R descriptions; empty ones where there are fewer), ``region/present`` bool [R] and ``boxes``
    float32 [R,4]. The best region comes first; where there are more lines, the first R are read.
    """

    field: str = "regions"
    """Field of the text; the text and its id are removed."""
    count: Count = 5
    """Regions per example, R."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        source = self.source
        while isinstance(source, WrappedSource):
            source = source.source
        if isinstance(source, EncodedSource) and "image" in source.parts() and not isinstance(source.crop, HostResize):
            yield (
                f"boxes are shares of the whole image, and the source crops it by {type(source.crop).__name__}: "
                "give the source crop = HostResize()"
            )

    def texts(self) -> tuple[str, ...]:
        return (self.field,)

    def removed(self) -> tuple[str, ...]:
        return (self.field, f"{self.field}_id")

    def added(self) -> dict[str, Field]:
        return {
            "region": Field((self.count,), "str"),
            "region/present": Field((self.count,), "bool"),
            "boxes": Field((self.count, 4), "float32"),
        }

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        lines = [[line for line in text.splitlines() if line.strip()][: self.count] for text in columns[self.field]]
        rows = [[parse_region(line) for line in text] for text in lines]
        boxes = np.zeros((len(rows), self.count, 4), np.float32)
        for row, regions in enumerate(rows):
            boxes[row, : len(regions)] = np.reshape([box for box, _ in regions], (-1, 4))
        return {
            "region": [(*(text for _, text in row), *[""] * (self.count - len(row))) for row in rows],
            "region/present": np.arange(self.count) < np.array([[len(row)] for row in rows]),
            "boxes": boxes,
        }


def parse_region(line: str) -> tuple[tuple[float, ...], str]:
    """Parse the box and the description of a region. Raises JaxrepError."""
    *numbers, description = line.split(maxsplit=4)
    try:
        box = tuple(map(float, numbers))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(0 <= number <= 1 for number in box):
        raise JaxrepError(
            f"a region is a line 'x y width height description' with shares of the image's sides; got {line!r}"
        )
    return box, description.strip()
