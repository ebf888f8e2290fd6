"""Read image-text pairs from tar files in WebDataset's layout: the members of one key form an example.

A member's name is its key up to the first dot of the last folder, then its extension: ``000/12.jpg`` and
``000/12.txt`` are the image and the caption of the example ``000/12``. The headers of a tar are read once, and its
index is kept beside it or in the cache, so that every order reads as fast as the order of the file. The index of a
shard is in memory while it is used: memory does not grow with the number of examples.
"""

import json
import operator
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples, EncodedSource, ShardedExamples
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.tar import index as tar_index
from jaxrep.data.sources.tar.index import Locations
from jaxrep.data.sources.tar.manifest import THREADS, Shard, index_shards, split
from jaxrep.errors import BadSample, UsageError
from jaxrep.spec import spec
from jaxrep.storage import read_bytes

CACHED_BYTES = 64 * 2**20
"""Bytes of indices in memory, those of the last shards: about 90 shards of 10,000 examples with three members."""


@spec
class TarShards(EncodedSource):
    """Read the examples in tar files, shard after shard (WebDataset's layout)."""

    shards: str | tuple[str, ...]
    """Paths, URLs or patterns, with braces (train-{00000..00099}.tar) and globs (*.tar)."""
    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """Extensions of images; empty: none."""
    text: str = "txt"
    """Extension of captions; empty: none."""
    label: str = ""
    """Extension of class numbers, often cls; empty: none."""
    captions: tuple[str, ...] = ()
    """Extensions of further captions: each is a field of this name."""
    metadata: str = "json"
    """Extension of metadata, an object in JSON; read only when one of its columns is read."""

    def extensions(self) -> dict[str, tuple[str, ...]]:
        """Return the extensions of each part, the preferred one first."""
        extensions = {"image": self.image, "text": (self.text,), "label": (self.label,)}
        captions = {name: (name,) for name in self.captions}
        return {part: names for part, names in extensions.items() if any(names)} | captions

    def parts(self) -> tuple[str, ...]:
        return tuple(self.extensions())

    def open(self) -> Examples:
        indexed = index_shards(files(self.shards))
        extensions = list(self.extensions().values())
        counts = [summary.count_examples(extensions) for _, summary in indexed]
        if sum(counts) == sum(len(summary.damage) for _, summary in indexed):
            wanted = ", ".join(f".{name}" for names in extensions for name in names)
            damage = next((f"; {shard.path}: {row.damage[0]}" for shard, row in indexed if row.damage), "")
            raise UsageError(f"the tars of {self.shards!r} have no member that ends in {wanted}{damage}")
        return TarExamples(self, [shard for shard, _ in indexed], counts)


class TarExamples(ShardedExamples, EncodedExamples):
    """Read the examples of indexed shards; ``counts``: the number of examples of each."""

    def __init__(self, source: TarShards, shards: Sequence[Shard], counts: Sequence[int]):
        EncodedExamples.__init__(self, source)
        ShardedExamples.__init__(self, [shard.path for shard in shards], counts)
        self._parts, self._indexed = len(source.parts()), shards
        self._extensions = {**source.extensions(), "metadata": (source.metadata,)}
        self._columns = {part: column for column, part in enumerate(self._extensions)}
        self._cached: LruCache[Locations] = LruCache(CACHED_BYTES, operator.attrgetter("nbytes"))

    def sizes(self, name: str) -> np.ndarray:
        """Return the sizes of a member, from the indices of all shards; 0 for a stretch that cannot be read."""
        if name not in self.source.parts():
            return super().sizes(name)
        with ThreadPoolExecutor(THREADS) as pool:
            return np.concatenate(list(pool.map(lambda shard: self._sizes(shard, name), self._indexed)))

    def _sizes(self, shard: Shard, name: str) -> np.ndarray:
        locations = self._locations(shard)
        sizes = np.zeros(len(locations), np.int64)
        sizes[: len(locations.size)] = locations.size[:, self._columns[name]]
        return sizes

    def _locations(self, shard: Shard) -> Locations:
        return shard.index().select(list(self._extensions.values()), self._parts)

    def _find(self, index: int) -> tuple[str, Locations, int]:
        """Return the path of an example's shard, the places of the shard's examples, and the number there."""
        number, row = self.find(index)
        return self._shards[number], self._cached.get(number, lambda: self._locations(self._indexed[number])), row

    def key(self, index: int) -> str:
        """Return the name of the shard and the key, as ``00003.tar/000/12``."""
        path, locations, row = self._find(index)
        return f"{split(path)[1]}/{locations.key(row)}"

    def content(self, index: int, part: str) -> bytes:
        path, locations, row = self._find(index)
        if damage := locations.damage_at(row):
            raise BadSample(path, damage)
        column = self._columns[part]
        example = f"{path}, example {locations.key(row)!r}"
        match locations.extension[row, column]:
            case tar_index.MISSING:
                expected = " or ".join(f".{name}" for name in self._extensions[part])
                raise BadSample(example, f"it has no member {expected}")
            case tar_index.DUPLICATE:
                raise BadSample(example, f"the tar has two members of one name for its {part}")
        size = int(locations.size[row, column])
        content = read_bytes(path, int(locations.offset[row, column]), size)
        if len(content) < size:
            raise BadSample(self.place(index, part), f"the tar ends after {len(content)} of its {size} bytes")
        return content

    def place(self, index: int, part: str) -> str:
        path, locations, row = self._find(index)
        extension = self._extensions[part][locations.extension[row, self._columns[part]]]
        return f"{path}, member {locations.key(row)}.{extension}"

    def metadata(self, index: int) -> Mapping[str, Any]:
        _, locations, row = self._find(index)
        if not locations.damage_at(row) and locations.extension[row, -1] == tar_index.MISSING:
            return {}
        try:
            metadata = json.loads(self.content(index, "metadata"))
        except ValueError as error:
            raise BadSample(self.place(index, "metadata"), f"the metadata are not JSON ({error})") from error
        return metadata if isinstance(metadata, dict) else {}
