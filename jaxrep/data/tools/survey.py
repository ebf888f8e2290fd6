"""Survey a data set: decode every example once, and count those that cannot be read by reason."""

import dataclasses
import io
from collections import Counter
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
MEASURED = ("width", "height", "characters", "bytes")
"""Numbers whose quantiles are reported."""
OTHERS = (*MEASURED, "format", "image")


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
    columns = {name: [row[name] for row in facts if row.get(name) is not None] for name in MEASURED}
    formats = Counter(row["format"] for row in facts if "format" in row)
    numbers = {name: [row[name] for row in facts] for name in (facts[0] if facts else {}) if name not in OTHERS}
    summary = {
        "examples": len(facts),
        "bad": dict(failures.counts.most_common()),
        "all": len(examples),
        "shards": len(examples.shard_ends),
        "bad_examples": failures.messages,
        **({"formats": dict(formats.most_common())} if formats else {}),
        **{f"distinct_{name}": len(set(map(int, values))) for name, values in numbers.items()},
        **{name: quantiles(values) for name, values in columns.items() if values},
    }
    return Survey(summary, tuple(row["image"] for row in facts if "image" in row))


def examine(examples: Examples, index: int, shown: bool) -> dict[str, Any]:
    """Decode one example, and return MEASURED, its format, ids and label, and its image if it is shown.

    Raises BadSample, BadShard.
    """
    facts: dict[str, Any] = {}
    if isinstance(examples, EncodedExamples):
        contents = examples.contents(index)
        row = examples.decoded(index, contents)
        facts["bytes"] = sum(map(len, contents.values()))
        if "image" in contents:
            with Image.open(io.BytesIO(contents["image"])) as image:  # the header alone
                facts |= {"width": image.width, "height": image.height, "format": image.format}
    else:
        row = examples[index]
        if "image" in row:
            facts |= {"width": row["image"].shape[1], "height": row["image"].shape[0]}
    if "text" in row:
        facts["characters"] = len("".join(row["text"]))
    if "image" in row and shown:
        facts["image"] = row["image"]
    numbers = {name: value for name, value in row.items() if name.endswith("_id") or name == "label"}
    return facts | {name: value for name, value in numbers.items() if np.ndim(value) == 0}


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
