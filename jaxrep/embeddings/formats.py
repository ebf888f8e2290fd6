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

from jaxrep.data.sources import tf_example
from jaxrep.errors import UsageError

Part = Mapping[str, np.ndarray]
GROUP = 1024
"""Rows that are written at a time. A row group of Parquet has as many, and is read as a whole."""


class NpzPart(Part):
    """Read a part from a .npz file, one column at a time."""

    def __init__(self, path: Path):
        self._path = path
        with np.load(path) as file:
            self._names = tuple(file.files)

    def __getitem__(self, name: str) -> np.ndarray:
        with np.load(self._path) as file:
            return file[name]

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
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow, which is not installed: pip install 'jaxrep[parquet]'") from error
    tables = (pyarrow.table({name: _arrow_column(part[name]) for name in part}) for part in parts)
    first = next(tables)
    # Floats of embeddings are noise, which does not compress.
    compression = {name: "none" if column.ndim > 1 else "zstd" for name, column in parts[0].items()}
    with parquet.ParquetWriter(path, first.schema, compression=compression) as writer:  # pyright: ignore
        for table in itertools.chain([first], tables):
            writer.write_table(table, row_group_size=GROUP)


def _arrow_column(values: np.ndarray) -> Any:
    import pyarrow

    if values.ndim == 1:
        return pyarrow.array(values.tolist() if values.dtype.kind == "U" else values)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])


def write_array_record(path: Path, parts: Sequence[Part]) -> None:
    """Write one tf.train.Example per row, one record per group, so that each row can be read alone."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for part in parts:
        columns = dict(part)
        for start in range(0, len(columns["index"]), GROUP):  # a Python number takes eight times as much memory
            values = [column[start : start + GROUP].tolist() for column in columns.values()]
            for row in zip(*values, strict=True):
                writer.write(tf_example.encode(dict(zip(columns, row, strict=True))))
    writer.close()


FORMATS: dict[str, tuple[str, Callable[[Path, Sequence[Part]], None]]] = {
    "npz": (".npz", write_npz),
    "parquet": (".parquet", write_parquet),
    "arrayrecord": (".array_record", write_array_record),
}
"""File ending and writer per format."""
