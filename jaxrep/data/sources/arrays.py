"""Read arrays from .npz shards: series, spectra, tables of numbers, and other data than images and texts."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.source import Examples, Source
from jaxrep.data.sources.encoded import ShardedExamples
from jaxrep.data.sources.patterns import files
from jaxrep.errors import BadShard, UsageError, hint
from jaxrep.npy import read_npy_header, read_npz
from jaxrep.spec import Count, spec
from jaxrep.storage import open_ranges

CACHED_SHARDS = 4
"""Shards that are held in memory."""


@spec
class ArrayShards(Source):
    """Read .npz files whose arrays have the examples as their first axis."""

    shards: str
    """The files: train-{00..09}.npz, or a glob."""
    shapes: Mapping[str, tuple[Count, ...]]
    """Shape of each array of one example; () is a number. Other arrays of the files are ignored."""
    kinds: Mapping[str, Literal["float32", "int32", "bool"]] = field(default_factory=dict)
    """Type of an array; the default is float32."""

    def problems(self) -> Iterator[str]:
        if not self.shapes:
            yield "shapes names no array"
        for name in self.kinds:
            if name not in self.shapes:
                yield f"kinds names '{name}', which shapes does not; {hint(name, self.shapes)}"

    def fields(self) -> dict[str, Field]:
        return {name: Field(tuple(shape), self.kinds.get(name, "float32")) for name, shape in self.shapes.items()}

    def open(self) -> Examples:
        shards = files(self.shards)
        return ArrayShardExamples(self, shards, [_count(path, self.fields()) for path in shards])


class ArrayShardExamples(ShardedExamples):
    """Read the rows of .npz files; a shard is read as a whole when one of its rows is read."""

    def __init__(self, source: ArrayShards, shards: Sequence[str], counts: Sequence[int]):
        super().__init__(shards, counts)
        self._fields = source.fields()
        self._cached: LruCache[dict[str, np.ndarray]] = LruCache(CACHED_SHARDS)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = self.find(range(len(self))[index])
        return {name: values[row] for name, values in self._cached.get(number, lambda: self._read(number)).items()}

    def _read(self, number: int) -> dict[str, np.ndarray]:
        path = self._shards[number]
        try:
            arrays = read_npz(open_ranges(path), self._fields)
            return {name: arrays[name].astype(declared.dtype) for name, declared in self._fields.items()}
        except (OSError, ValueError) as error:
            raise BadShard(f"{path} cannot be read: {error}") from error


def _count(path: str, fields: Mapping[str, Field]) -> int:
    """Count the rows of a shard by the headers of its arrays. Raises UsageError: they differ from the declaration."""
    counts = {}
    try:
        with zipfile.ZipFile(open_ranges(path)) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            for name, declared in fields.items():
                if name not in members:
                    raise UsageError(f"{path} has no array '{name}'; {hint(name, members)}")
                counts[name], *shape = _header(archive, members[name])
                if tuple(shape) != declared.shape:
                    raise UsageError(f"{path}: '{name}' of an example has shape {tuple(shape)}, not {declared.shape}")
    except UsageError:
        raise
    except Exception as error:  # zipfile and NumPy raise errors of many types for damaged files
        raise UsageError(f"{path} is no .npz file that can be read: {error}") from error
    if len(set(counts.values())) != 1:
        raise UsageError(f"{path}: the arrays are of different lengths: {counts}")
    return next(iter(counts.values()))


def _header(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """Read the shape of a .npy member from its header. Raises ValueError: it has no axis."""
    with archive.open(name) as file:
        shape = read_npy_header(file).shape
    if not shape:
        raise ValueError(f"'{name}' has no rows")
    return shape
