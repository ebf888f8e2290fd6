"""Survey a data set: decode every example once, and count those that cannot be read by reason."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jaxrep.data.images.decode import open_image
from jaxrep.data.source import Examples, as_captions
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tools.reading import Failures, read_all

SHOWN = 64
"""Number of images in the grid, in rows of 8."""
MESSAGES = 20
"""Number of bad examples whose messages are kept."""
SIDE = 128
"""Pixels of an image in the grid."""
MEASURED = ("width", "height", "characters", "bytes")
"""Numbers whose quantiles are reported."""


def survey(examples: Examples) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Decode every example; return a summary, and some of the images uint8 [H,W,3], evenly spaced.

    The summary has JSON values: ``examples`` and the counts of ``bad`` by reason add up to ``all``; sizes, lengths.
    """
    shown = set(np.linspace(0, max(len(examples) - 1, 0), SHOWN).astype(int).tolist())
    failures = Failures(MESSAGES)
    indices = range(len(examples))
    rows = read_all(lambda i: examine(examples, i, i in shown), indices, "decoding", failures, ahead=examples)
    columns: dict[str, list[Any]] = {}
    for _, facts in rows:
        for name, value in facts.items():
            columns.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    images, formats = columns.pop("image", []), Counter(columns.pop("format", []))
    summary = {
        "examples": len(examples) - failures.counts.total(),
        "bad": dict(failures.counts.most_common()),
        "all": len(examples),
        "shards": len(examples.shard_ends),
        "bad_examples": failures.messages,
        **({"formats": dict(formats.most_common())} if formats else {}),
        **{f"distinct_{name}": len(set(column)) for name, column in columns.items() if name not in MEASURED},
        **{name: quantiles(columns[name]) for name in MEASURED if name in columns},
    }
    return summary, images


def examine(examples: Examples, index: int, shown: bool) -> dict[str, Any]:
    """Decode one example, and return MEASURED, its format, ids and label, and its image if it is shown.

    Several captions have a list of lengths, and of ids.

    Raises BadSample, BadShard.
    """
    facts: dict[str, Any] = {}
    if isinstance(examples, EncodedExamples):
        contents = examples.contents(index)
        row = examples.decoded(index, contents)
        facts["bytes"] = sum(
            len(part) if isinstance(part, bytes) else sum(map(len, part)) for part in contents.values()
        )
        if "image" in contents:
            width, height, facts["format"] = open_image(contents["image"], lambda image: (*image.size, image.format))
            facts |= {"width": width, "height": height}
    else:
        row = examples[index]
        if "image" in row:
            facts |= {"width": row["image"].shape[1], "height": row["image"].shape[0]}
    if "text" in row:
        facts["characters"] = [len(text) for text in as_captions(row["text"])]
    if "image" in row and shown:
        facts["image"] = row["image"]
    numbers = {name: value for name, value in row.items() if name.endswith("_id") or name == "label"}
    return facts | {name: np.ravel(value).tolist() for name, value in numbers.items()}


def quantiles(values: list[int]) -> dict[str, float]:
    """Return minimum, quantiles, mean and maximum of some numbers."""
    low, p5, median, p95, high = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
    named = {"min": low, "p5": p5, "median": median, "mean": np.mean(values), "p95": p95, "max": high}
    return {name: round(float(value), 1) for name, value in named.items()}


def grid(images: Sequence[np.ndarray]) -> Image.Image:
    """Draw up to 64 images in rows of 8, on white."""
    rows = -(-len(images) // 8) or 1
    sheet = Image.new("RGB", (8 * SIDE, rows * SIDE), "white")
    for number, pixels in enumerate(images):
        tile = Image.fromarray(pixels).resize((SIDE - 4, SIDE - 4), Image.Resampling.BICUBIC)
        sheet.paste(tile, (number % 8 * SIDE + 2, number // 8 * SIDE + 2))
    return sheet
