"""Image-text pairs in tar files, as WebDataset lays them out: members of one key form an example.

A member's name is its key up to the first dot of the last folder, then its extension: ``000/12.jpg`` and
``000/12.txt`` are the picture and the caption of the example ``000/12``. The headers of a tar are read once; where its
examples lie is kept beside it or in the cache, so that every order reads as fast as the one in which they were written.
The index of a shard is in memory while it is used: memory does not grow with the number of examples.
"""

import json
import operator
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples, EncodedSource
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.tar import index as tar_index
from jaxrep.data.sources.tar.index import Places
from jaxrep.data.sources.tar.manifest import THREADS, Shard, index_shards, split
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import spec
from jaxrep.storage import read

NEAR = 64 * 2**20
"""Bytes of indices that are kept in memory, of the shards used last: about 90 of 10,000 examples with three members."""


@spec
class TarShards(EncodedSource):
    """The examples in tar files, shard after shard (WebDataset's layout)."""

    shards: str | tuple[str, ...]
    """Paths, URLs or patterns, with braces (train-{00000..00099}.tar) and globs (*.tar)."""
    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """Extensions of pictures; none: no picture is read."""
    text: str = "txt"
    """Extension of captions; empty: none is read."""
    label: str = ""
    """Extension of class numbers, often cls; empty: none is read."""
    captions: tuple[str, ...] = ()
    """Extensions of further captions: each is a field of this name."""
    metadata: str = "json"
    """Extension of metadata, an object in JSON; read only when a column of it is asked for."""

    def extensions(self) -> dict[str, tuple[str, ...]]:
        """Extensions of each part, the preferred one first."""
        every = {"image": self.image, "text": (self.text,), "label": (self.label,)}
        captions = {name: (name,) for name in self.captions}
        return {part: names for part, names in every.items() if any(names)} | captions

    def parts(self) -> tuple[str, ...]:
        return tuple(self.extensions())

    def open(self) -> Examples:
        shards = index_shards(files(self.shards))
        extensions = list(self.extensions().values())
        counts = [row.count(extensions) for _, row in shards]
        if sum(counts) == sum(len(row.damage) for _, row in shards):
            wanted = ", ".join(f".{name}" for names in extensions for name in names)
            damage = next((f"; {shard.path}: {row.damage[0]}" for shard, row in shards if row.damage), "")
            raise UsageError(f"the tars of {self.shards!r} hold no member that ends in {wanted}{damage}")
        return TarExamples(self, [shard for shard, _ in shards], counts)


class TarExamples(EncodedExamples):
    """The examples of ``shards``, each of which has one of ``counts``."""

    def __init__(self, source: TarShards, shards: Sequence[Shard], counts: Sequence[int]):
        super().__init__(source)
        self._parts = len(source.parts())
        self._extensions = {**source.extensions(), "metadata": (source.metadata,)}
        self._shards, self._ends = shards, np.cumsum(counts)
        self._near: LruCache[Places] = LruCache(NEAR, operator.attrgetter("nbytes"))

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def ends(self) -> np.ndarray:
        return self._ends

    def sizes(self, name: str) -> np.ndarray:
        """Of a member of the examples, as the indices of all shards say; a stretch that cannot be read has none."""
        if name not in self.source.parts():
            return super().sizes(name)
        with ThreadPoolExecutor(THREADS) as pool:
            return np.concatenate(list(pool.map(lambda shard: self._sizes(shard, name), self._shards)))

    def _sizes(self, shard: Shard, name: str) -> np.ndarray:
        places = shard.table().select(list(self._extensions.values()), self._parts)
        sizes = np.zeros(len(places), np.int64)
        sizes[: len(places.size)] = places.size[:, list(self._extensions).index(name)]
        return sizes

    def shard(self, index: int) -> str:
        return self._shards[int(np.searchsorted(self._ends, index, side="right"))].path

    def _find(self, index: int) -> tuple[Shard, Places, int]:
        """The shard of an example, where the shard's examples lie, and its number there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        shard = self._shards[number]
        places = self._near.get(number, lambda: shard.table().select(list(self._extensions.values()), self._parts))
        return shard, places, int(index - (self._ends[number - 1] if number else 0))

    def key(self, index: int) -> str:
        """Name of the shard and key, as ``00003.tar/000/12``."""
        shard, places, row = self._find(index)
        return f"{split(shard.path)[1]}/{places.key(row)}"

    def content(self, index: int, part: str) -> bytes:
        shard, places, row = self._find(index)
        if damage := places.damage(row):
            raise BadSample(shard.path, damage)
        at = list(self._extensions).index(part)
        where = f"{shard.path}, example {places.key(row)!r}"
        match places.extension[row, at]:
            case tar_index.MISSING:
                expected = " or ".join(f".{name}" for name in self._extensions[part])
                raise BadSample(where, f"it has no member {expected}")
            case tar_index.TWICE:
                raise BadSample(where, f"the tar holds two members of one name for its {part}")
        size = int(places.size[row, at])
        content = read(shard.path, int(places.offset[row, at]), size)
        if len(content) < size:
            raise BadSample(self.place(index, part), f"the tar ends after {len(content)} of its {size} bytes")
        return content

    def place(self, index: int, part: str) -> str:
        shard, places, row = self._find(index)
        at = list(self._extensions).index(part)
        return f"{shard.path}, member {places.key(row)}.{self._extensions[part][places.extension[row, at]]}"

    def metadata(self, index: int) -> Mapping[str, Any]:
        _, places, row = self._find(index)
        if not places.damage(row) and places.extension[row, -1] == tar_index.MISSING:
            return {}
        try:
            found = json.loads(self.content(index, "metadata"))
        except ValueError as error:
            raise BadSample(self.place(index, "metadata"), f"the metadata are not JSON ({error})") from error
        return found if isinstance(found, dict) else {}
