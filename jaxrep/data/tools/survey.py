"""Survey a data set: decode every example once, and count those that cannot be read by reason."""

import dataclasses
import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tools.reading import Failures, read_all

SHOWN = 64
"""Number of images in the grid: 8 x 8."""
MESSAGES = 20
"""Number of bad examples whose messages are kept."""
SIDE = 128
"""Pixels of an image in the grid."""


@dataclasses.dataclass(frozen=True)
class ExampleFacts:
    """Hold what the survey keeps of one example."""

    numbers: Mapping[str, Any]  # ids and labels
    characters: int | None
    size: tuple[int, int] | None  # width and height as stored
    format: str | None
    content_bytes: int | None
    image: np.ndarray | None  # of some examples


@dataclasses.dataclass(frozen=True)
class Survey:
    """Hold the result of ``survey``."""

    summary: dict[str, Any]
    """JSON values: ``examples``, ``bad`` by reason, ``all``, sizes, lengths."""
    images: tuple[np.ndarray, ...]
    """Some of the images, uint8 [H,W,3], evenly spaced."""


def survey(examples: Examples) -> Survey:
    """Decode every example. ``examples`` and the counts of ``bad`` add up to ``all``."""
    shown = set(np.linspace(0, max(len(examples) - 1, 0), SHOWN).astype(int).tolist())
    failures = Failures(MESSAGES)
    rows = read_all(lambda index: examine(examples, index, index in shown), len(examples), "decoding", failures)
    facts = [row for _, row in rows]
    summary = {
        "examples": len(facts),
        "bad": dict(failures.counts.most_common()),
        "all": len(examples),
        "shards": len(examples.shard_ends),
        "bad_examples": failures.messages,
        **_counts(facts),
        **_quantiles(facts),
    }
    return Survey(summary, tuple(row.image for row in facts if row.image is not None))


def examine(examples: Examples, index: int, shown: bool) -> ExampleFacts:
    """Decode one example. Raises BadSample, BadShard."""
    size = image_format = content_bytes = None
    if isinstance(examples, EncodedExamples):
        contents = examples.contents(index)
        row = examples.decoded(index, contents)
        content_bytes = sum(map(len, contents.values()))
        if "image" in contents:
            with Image.open(io.BytesIO(contents["image"])) as image:  # the header alone
                size, image_format = image.size, image.format
    else:
        row = examples[index]
        if "image" in row:
            size = row["image"].shape[1::-1]
    characters = len("".join(row["text"])) if "text" in row else None
    numbers = {name: value for name, value in row.items() if name.endswith("_id") or name == "label"}
    return ExampleFacts(numbers, characters, size, image_format, content_bytes, row.get("image") if shown else None)


def _counts(facts: list[ExampleFacts]) -> dict[str, Any]:
    formats = Counter(row.format for row in facts if row.format)
    counts: dict[str, Any] = {"formats": dict(formats.most_common())} if formats else {}
    for name in facts[0].numbers if facts else ():
        values = [row.numbers[name] for row in facts]
        if np.ndim(values[0]) == 0:
            counts[f"distinct_{name}"] = len(set(map(int, values)))
    return counts


def _quantiles(facts: list[ExampleFacts]) -> dict[str, Any]:
    columns = {
        "width": [row.size[0] for row in facts if row.size],
        "height": [row.size[1] for row in facts if row.size],
        "characters": [row.characters for row in facts if row.characters is not None],
        "bytes": [row.content_bytes for row in facts if row.content_bytes is not None],
    }
    return {name: quantiles(values) for name, values in columns.items() if values}


def quantiles(values: list[int]) -> dict[str, float]:
    """Return minimum, quantiles, mean and maximum of some numbers."""
    low, p5, median, p95, high = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
    named = {"min": low, "p5": p5, "median": median, "mean": np.mean(values), "p95": p95, "max": high}
    return {name: round(float(value), 1) for name, value in named.items()}


def grid(images: tuple[np.ndarray, ...]) -> Image.Image:
    """Draw up to 64 images in rows of 8, on white."""
    rows = -(-len(images) // 8) or 1
    sheet = Image.new("RGB", (8 * SIDE, rows * SIDE), "white")
    for number, pixels in enumerate(images):
        tile = Image.fromarray(pixels).resize((SIDE - 4, SIDE - 4), Image.Resampling.BICUBIC)
        sheet.paste(tile, (number % 8 * SIDE + 2, number // 8 * SIDE + 2))
    return sheet
