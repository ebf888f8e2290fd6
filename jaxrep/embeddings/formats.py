"""Write files of embeddings: ``.npz``, Parquet, or ArrayRecord, from parts that are never in memory together.

A part has columns of n rows: ``image`` and ``text`` float32 [n,D], ``key`` str [n] (the name of an example) and
``index`` int64 [n] (its index in the data).
"""

import itertools
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrep.data.tools.writers import write_examples
from jaxrep.extras import import_extra
from jaxrep.npy import read_npz

Part = Mapping[str, np.ndarray]
GROUP = 1024
"""Rows that are written at a time. A row group of Parquet has as many, and is read as a whole."""


class NpzPart(Part):
    """Read a part from a .npz file, one column at a time."""

    def __init__(self, path: Path):
        self._path = path
        with zipfile.ZipFile(path) as file:
            self._names = tuple(name.removesuffix(".npy") for name in file.namelist())

    def __getitem__(self, name: str) -> np.ndarray:
        return read_npz(self._path, [name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def write_npz(path: Path, parts: Sequence[Part]) -> None:
    """Write one array per column, for ``numpy.load``. The same parts give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in parts[0]:
            kinds = [(column.shape, column.dtype) for column in (part[name] for part in parts)]
            dtype = np.result_type(*(dtype for _, dtype in kinds))  # of strings, the longest
            shape = (sum(shape[0] for shape, _ in kinds), *kinds[0][0][1:])
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            # A new ZipInfo has no time stamp. The size is not known in advance, so it may be large.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, header)
                for part in parts:
                    file.write(np.ascontiguousarray(part[name], dtype).data.cast("B") if len(part[name]) else b"")


def write_parquet(path: Path, parts: Sequence[Part]) -> None:
    """Write a Parquet table. Embeddings are lists of D floats of 32 bits. Raises UsageError without pyarrow."""
    pyarrow, parquet = import_extra("pyarrow", "parquet"), import_extra("pyarrow.parquet", "parquet")
    tables = (pyarrow.table({name: _arrow_column(part[name]) for name in part}) for part in parts)
    first = next(tables)
    # Floats of embeddings are noise, which does not compress.
    compression = {name: "none" if column.ndim > 1 else "zstd" for name, column in parts[0].items()}
    with parquet.ParquetWriter(path, first.schema, compression=compression) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table, row_group_size=GROUP)


def _arrow_column(values: np.ndarray) -> Any:
    pyarrow = import_extra("pyarrow", "parquet")
    if values.ndim == 1:
        return pyarrow.array(values.tolist() if values.dtype.kind == "U" else values)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])


def write_array_record(path: Path, parts: Sequence[Part]) -> None:
    """Write one tf.train.Example per row."""
    write_examples(path, (row for part in parts for row in _rows(dict(part))))


def _rows(part: Part) -> Iterator[dict[str, Any]]:
    for start in range(0, len(part["index"]), GROUP):  # a Python number takes eight times as much memory
        for values in zip(*(column[start : start + GROUP].tolist() for column in part.values()), strict=True):
            yield dict(zip(part, values, strict=True))


FORMATS: dict[str, tuple[str, Callable[[Path, Sequence[Part]], None]]] = {
    "npz": (".npz", write_npz),
    "parquet": (".parquet", write_parquet),
    "arrayrecord": (".array_record", write_array_record),
}
"""File ending and writer per format."""
