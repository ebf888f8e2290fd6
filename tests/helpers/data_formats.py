"""The same examples in every format that a source reads, as tests write them. A row: ``image``, ``text`` and others."""

import csv
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jaxrep.data.sources import tf_example
from tests.helpers.tars import write

Rows = Sequence[Mapping[str, Any]]


def tar(path: Path, rows: Rows) -> None:
    members = [((f"{n:04}.png", row["image"]), (f"{n:04}.txt", row["text"].encode())) for n, row in enumerate(rows)]
    write(path, [member for pair in members for member in pair])


def array_record(path: Path, rows: Rows | Sequence[bytes]) -> None:
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for row in rows:
        writer.write(row if isinstance(row, bytes) else tf_example.encode(row))
    writer.close()


def parquet(path: Path, rows: Rows, group: int = 2) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=group)


def folder(path: Path, rows: Rows) -> None:
    path.mkdir()
    for n, row in enumerate(rows):
        (path / f"{n:04}.png").write_bytes(row["image"])


def table(path: Path, rows: Rows) -> None:
    """The table, and a folder of its name with the pictures."""
    folder(path.with_suffix(""), rows)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["filepath", "title"])
        lines.writerows([f"{path.stem}/{n:04}.png", row["text"]] for n, row in enumerate(rows))


TINY = """
import io, pickle, sys
import numpy as np
import tensorflow_datasets as tfds

class Tiny(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "caption": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
            "score": np.float32,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
    def _split_generators(self, manager):
        rows = enumerate(pickle.load(sys.stdin.buffer))
        return {"train": (
            (n, {"image": io.BytesIO(row["image"]), "caption": row["text"], "label": n % 2, "score": n / 4})
            for n, row in rows
        )}
    def _generate_examples(self):
        pass

Tiny(data_dir=sys.argv[1], file_format="array_record").download_and_prepare()
"""


def tfds(path: Path, rows: Rows) -> None:
    """The data set ``tiny`` that TFDS prepared, in a process of its own: it registers classes for good."""
    pytest.importorskip("tensorflow_datasets")
    message, env = pickle.dumps(list(rows)), {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", TINY, path], input=message, check=True, env=env, timeout=120)


def label_map(path: Path, number: int) -> None:
    """Write a map as large as ``tars.picture``, in which every pixel is of one class."""
    Image.new("L", (5, 5), number).save(path)
