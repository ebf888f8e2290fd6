"""A folder in the layout of img2dataset: tars, a Parquet table and a JSON of statistics beside each."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers import data_formats as formats
from tests.helpers.tars import picture, write


def uid(number: int) -> str:
    """Return the uid of a pair, 32 hexadecimal digits as DataComp has them."""
    return f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128:032x}"


def uid_array(*numbers: int) -> np.ndarray:
    """Return a sorted array of uids, as DataComp's baselines save it."""
    texts = [uid(number) for number in numbers]
    array = np.array([(int(text[:16], 16), int(text[16:32], 16)) for text in texts], np.dtype("u8,u8"))
    array.sort()
    return array


def row(number: int, shard: int, **changes: Any) -> dict[str, Any]:
    """Return the metadata of a pair."""
    values = {
        "url": f"https://host/{number}.jpg",
        "caption": f"number {number}",
        "captions": [f"number {number}", f"a picture of {number}"],
        "key": f"{shard:05}{number:04}",
        "status": "success",
        "error_message": None,
        "width": 100 + number,
        "similarity": number / 16,
        "uid": uid(number),
        "clip": {"similarity": number / 8},
    }
    return {**values, **changes}


def failed(number: int, shard: int) -> dict[str, Any]:
    """Return the metadata of a pair that could not be downloaded: the table alone has it."""
    error = {"status": "failed_to_download", "error_message": "HTTP Error 404", "width": None}
    return row(number, shard, **error)


def shard(
    folder: Path,
    number: int,
    rows: Sequence[Mapping[str, Any]],
    *,
    table: Sequence[Mapping[str, Any]] | None = None,
    more: Mapping[str, bytes] | None = None,
) -> None:
    """Write a shard; ``table``: other rows of its table; none: no table. ``more``: further members of the tar."""
    members = []
    for values in rows:
        if values["status"] == "success":
            level = int(values["caption"].removeprefix("number "))
            document = {name: value for name, value in values.items() if value is not None}
            parts = {"jpg": picture(level), "txt": values["caption"].encode(), "json": json.dumps(document).encode()}
            members += [(f"{values['key']}.{ending}", content) for ending, content in parts.items()]
    write(folder / f"{number:05}.tar", [*members, *(more or {}).items()])
    if table is None or table:
        formats.parquet(folder / f"{number:05}.parquet", rows if table is None else table)
    good = sum(values["status"] == "success" for values in rows)
    stats = {"count": len(rows), "successes": good, "failed_to_download": len(rows) - good}
    (folder / f"{number:05}_stats.json").write_text(json.dumps(stats))


def folder(path: Path) -> Path:
    """Write three shards of eight pairs: the first has a failed download as well, the third has no table."""
    path.mkdir(exist_ok=True)
    shard(path, 0, [*(row(n, 0) for n in range(8)), failed(24, 0)])
    shard(path, 1, [row(n, 1) for n in range(8, 16)])
    shard(path, 2, [row(n, 2) for n in range(16, 24)], table=())
    return path
