"""Arrays in .npz shards: series, spectra, tables of numbers; whatever is neither a picture nor a text."""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.source import Examples, Source
from jaxrep.data.sources.patterns import files
from jaxrep.errors import BadShard, UsageError, hint
from jaxrep.spec import spec
from jaxrep.storage import ranges

NEAR_SHARDS = 4
"""Shards that are kept in memory."""
KINDS = ("float32", "int32", "bool")


@spec
class ArrayShards(Source):
    """.npz files whose arrays lead with the examples."""

    shards: str
    """The files: train-{00..09}.npz, or a glob."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each array of one example; () is a number. Other arrays of the files are left alone."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Type of an array, int32 or bool, where it is not float32."""

    def problems(self) -> Iterator[str]:
        if not self.shapes:
            yield "shapes names no array"
        for name, kind in self.kinds.items():
            if name not in self.shapes or kind not in KINDS:
                yield f"kinds gives an array of shapes one of {', '.join(KINDS)}, and not '{name}': '{kind}'"

    def fields(self) -> dict[str, Field]:
        return {name: Field(tuple(shape), self.kinds.get(name, "float32")) for name, shape in self.shapes.items()}

    def open(self) -> Examples:
        return ShardedArrays(self, files(self.shards))


class ShardedArrays(Examples):
    """Random access to the rows of .npz files; a shard is read whole where one of its rows is wanted."""

    def __init__(self, source: ArrayShards, shards: Sequence[str]):
        self._fields, self._shards = source.fields(), shards
        self._ends = np.cumsum([self._count(path) for path in shards])
        self._near: LruCache[dict[str, np.ndarray]] = LruCache(NEAR_SHARDS)

    def _count(self, path: str) -> int:
        """The rows of a shard, from the headers of its arrays alone. Raises UsageError: they are not as declared."""
        try:
            with zipfile.ZipFile(ranges(path)) as archive:
                held = {name.removesuffix(".npy"): name for name in archive.namelist()}
                for name in self._fields:
                    if name not in held:
                        raise UsageError(f"{path} has no array '{name}'; {hint(name, held)}")
                shapes = {name: _header(archive, held[name]) for name in self._fields}
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UsageError(f"{path} is no .npz file that can be read: {error}") from error
        for name, declared in self._fields.items():
            if shapes[name][1:] != declared.shape:
                raise UsageError(f"{path}: '{name}' of an example has shape {shapes[name][1:]}, not {declared.shape}")
        counts = {name: shape[0] for name, shape in shapes.items()}
        if len(set(counts.values())) != 1:
            raise UsageError(f"{path}: the arrays are of different lengths: {counts}")
        return next(iter(counts.values()))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        row = index - (int(self._ends[number - 1]) if number else 0)
        return {name: values[row] for name, values in self._near.get(number, lambda: self._read(number)).items()}

    def _read(self, number: int) -> dict[str, np.ndarray]:
        path = self._shards[number]
        try:
            with np.load(ranges(path), allow_pickle=False) as held:
                return {name: held[name].astype(declared.dtype) for name, declared in self._fields.items()}
        except (zipfile.BadZipFile, OSError, ValueError, KeyError) as error:
            raise BadShard(f"{path} cannot be read: {error}") from error

    @property
    def ends(self) -> np.ndarray:
        return self._ends

    def shard(self, index: int) -> str:
        return self._shards[int(np.searchsorted(self._ends, index, side="right"))]


def _header(archive: zipfile.ZipFile, name: str) -> tuple[int, ...]:
    """The shape that the head of a .npy member tells; at least one axis."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape = read[version](file)[0] if version in read else ()
    if not shape:
        raise ValueError(f"'{name}' has no rows")
    return shape
