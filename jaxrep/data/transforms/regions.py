"""Descriptions of regions with their boxes, written beside a picture."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples
from jaxrep.data.transforms.select import WrappedExamples, WrappedSource
from jaxrep.errors import JaxrepError
from jaxrep.spec import spec


@spec
class Regions(WrappedSource):
    """Reads a text of lines ``x y width height description``, the best region first: shares of the picture's sides,
    with x and y of the box's middle.

    Adds ``region`` (R descriptions; empty ones where there are fewer), ``region/present`` bool [R] and ``boxes``
    float32 [R,4]. Where there are more lines the first ones count.
    """

    of: str = "regions"
    """Field of the text; it and its id are replaced."""
    count: int = 5
    """Regions of an example, R."""

    def texts(self) -> tuple[str, ...]:
        return (self.of,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.count < 1:
            yield f"count is a number of regions: at least 1, got {self.count}"

    def fields(self) -> dict[str, Field]:
        return {
            **_without(self.source.fields(), self.of),
            "region": Field((self.count,), "str"),
            "region/present": Field((self.count,), "bool"),
            "boxes": Field((self.count, 4), "float32"),
        }

    def open(self) -> Examples:
        return RegionExamples(self, self.source.open())


class RegionExamples(WrappedExamples):
    """``Regions`` of examples."""

    def __init__(self, source: Regions, examples: Examples):
        super().__init__(examples)
        self._of, self._count = source.of, source.count

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        return {**_without(columns, self._of), **self._regions(columns[self._of])}

    def column(self, name: str) -> Any:
        if name in ("region", "region/present", "boxes"):
            return self._regions(self.inner.column(self._of))[name]
        return self.inner.column(name)

    def _regions(self, texts: list[str]) -> dict[str, Any]:
        rows = [[parse(line) for line in text.splitlines() if line.strip()][: self._count] for text in texts]
        boxes = np.zeros((len(rows), self._count, 4), np.float32)
        for row, regions in enumerate(rows):
            for place, (box, _) in enumerate(regions):
                boxes[row, place] = box
        return {
            "region": [(*(text for _, text in row), *[""] * (self._count - len(row))) for row in rows],
            "region/present": np.arange(self._count) < np.array([[len(row)] for row in rows]),
            "boxes": boxes,
        }


def _without(fields: Mapping[str, Any], of: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in (of, f"{of}_id")}


def parse(line: str) -> tuple[tuple[float, ...], str]:
    """The box and the description of a region. Raises JaxrepError."""
    *numbers, description = line.split(maxsplit=4)
    try:
        box = tuple(map(float, numbers))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(0 <= number <= 1 for number in box):
        raise JaxrepError(
            f"a region is a line 'x y width height description' with shares of the picture's sides; got {line!r}"
        )
    return box, description.strip()
