"""What a data set holds: every example is decoded once, and what cannot be read is counted by its reason."""

import dataclasses
import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples
from jaxrep.data.tools.try_each import reason, try_each
from jaxrep.errors import BadSample, BadShard

SHOWN = 64
"""Pictures in the grid: 8 x 8."""
NAMED = 20
"""Bad examples that are named."""
SIDE = 128
"""Pixels of a picture in the grid."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What is kept of one example."""

    row: Mapping[str, Any]  # ids and labels
    characters: int | None
    size: tuple[int, int] | None  # width and height as stored
    format: str | None
    content_bytes: int | None
    picture: np.ndarray | None  # of some examples


@dataclasses.dataclass(frozen=True)
class Survey:
    """What ``survey`` found."""

    summary: dict[str, Any]
    """JSON values: ``examples``, ``bad`` by reason, ``all``, sizes, lengths."""
    pictures: tuple[np.ndarray, ...]
    """Some of the pictures, uint8 [H,W,3], evenly spread."""


def survey(examples: Examples) -> Survey:
    """Decodes every example. ``examples`` and the counts of ``bad`` add up to ``all``."""
    shown = set(np.linspace(0, max(len(examples) - 1, 0), SHOWN).astype(int).tolist())
    looks, bad, named = [], Counter(), []
    for found in try_each(lambda index: look(examples, index, index in shown), len(examples), "decoding"):
        if isinstance(found, BadSample | BadShard):
            bad[reason(found)] += 1
            named += [str(found)] if len(named) < NAMED else []
        else:
            looks.append(found)
    summary = {
        "examples": len(looks),
        "bad": dict(bad.most_common()),
        "all": len(examples),
        "shards": len(examples.ends),
        "bad_examples": named,
        **_counts(looks),
        **_spreads(looks),
    }
    return Survey(summary, tuple(found.picture for found in looks if found.picture is not None))


def look(examples: Examples, index: int, shown: bool) -> Look:
    """Decodes one example. Raises BadSample, BadShard."""
    size = kind = held = None
    if isinstance(examples, EncodedExamples):
        contents = examples.contents(index)
        row = examples.decoded(index, contents)
        held = sum(map(len, contents.values()))
        if "image" in contents:
            with Image.open(io.BytesIO(contents["image"])) as picture:  # the header alone
                size, kind = picture.size, picture.format
    else:
        row = examples[index]
        if "image" in row:
            size = row["image"].shape[1::-1]
    text = row.get("text")
    characters = len("".join(text)) if text is not None else None
    numbers = {name: value for name, value in row.items() if name.endswith("_id") or name == "label"}
    return Look(numbers, characters, size, kind, held, row.get("image") if shown else None)


def _counts(looks: list[Look]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    formats = Counter(look.format for look in looks if look.format)
    if formats:
        found["formats"] = dict(formats.most_common())
    for name in looks[0].row if looks else ():
        values = [look.row[name] for look in looks]
        if np.ndim(values[0]) == 0:
            found[f"distinct_{name}"] = len(set(map(int, values)))
    return found


def _spreads(looks: list[Look]) -> dict[str, Any]:
    columns = {
        "width": [look.size[0] for look in looks if look.size],
        "height": [look.size[1] for look in looks if look.size],
        "characters": [look.characters for look in looks if look.characters is not None],
        "bytes": [look.content_bytes for look in looks if look.content_bytes is not None],
    }
    return {name: spread(values) for name, values in columns.items() if values}


def spread(values: list[int]) -> dict[str, float]:
    """Least, quantiles, mean and most of some numbers."""
    least, low, middle, high, most = np.quantile(values, (0, 0.05, 0.5, 0.95, 1))
    found = {"min": least, "p5": low, "median": middle, "mean": np.mean(values), "p95": high, "max": most}
    return {name: round(float(value), 1) for name, value in found.items()}


def grid(pictures: tuple[np.ndarray, ...]) -> Image.Image:
    """Up to 64 pictures in rows of 8, on white."""
    rows = -(-len(pictures) // 8) or 1
    sheet = Image.new("RGB", (8 * SIDE, rows * SIDE), "white")
    for number, pixels in enumerate(pictures):
        picture = Image.fromarray(pixels).resize((SIDE - 4, SIDE - 4), Image.Resampling.BICUBIC)
        sheet.paste(picture, (number % 8 * SIDE + 2, number // 8 * SIDE + 2))
    return sheet
