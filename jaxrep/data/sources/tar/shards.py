"""Read image-text pairs from tar files in WebDataset's layout: the members of one key form an example.

A member's name is its key up to the first dot of the last folder, then its extension: ``000/12.jpg`` and
``000/12.txt`` are the image and the caption of the example ``000/12``. The headers of a tar are read once, and its
index is kept beside it or in the cache, so that every order reads as fast as the order of the file. The index of a
shard is in memory while it is used: memory does not grow with the number of examples.
"""

import contextlib
import json
import operator
import posixpath
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data.source import Examples
from jaxrep.data.sources.encoded import EncodedExamples, EncodedSource, ShardedExamples
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.tar import index as tar_index
from jaxrep.data.sources.tar.index import Extensions, Locations
from jaxrep.data.sources.tar.manifest import THREADS, Shard, index_shards
from jaxrep.errors import BadSample, BadShard, JaxrepError, UsageError
from jaxrep.spec import spec
from jaxrep.storage import read_bytes

CACHED_BYTES = 64 * 2**20
"""Bytes of indices in memory, those of the last shards: about 90 shards of 10,000 examples with three members."""
MAX_UNREAD_SHARE = 0.01
"""Members that are not read, per example, without a word."""
SHOWN_ENDINGS = 10


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
        shards = index_shards(files(self.shards))
        extensions = list(self.extensions().values())
        counts = [shard.summary.count_examples(extensions) for shard in shards]
        damage = [f"; {shard.path}: {text}" for shard in shards for text in shard.summary.damage]
        wanted = ", ".join(f".{name}" for names in extensions for name in names)
        unread, endings = _unread_members(shards, extensions)
        if sum(counts) == len(damage):
            reasons = "".join([f"; there are: {endings}"] * (unread > 0) + damage[:1])
            raise UsageError(f"the tars of {self.shards!r} have no member that ends in {wanted}{reasons}")
        if unread > MAX_UNREAD_SHARE * sum(counts):
            print(
                f"the tars of {self.shards!r} have {unread} members that are not read, since their keys have no member "
                f"that ends in {wanted} (a key ends at the first dot of a name): {endings}",
                file=sys.stderr,
            )
        examples = TarExamples(self, shards, counts)
        endings = {ending for shard in shards for kind in shard.summary.kinds for ending in kind.split("/")}
        there = ", ".join(f".{ending[:40]}" for ending in sorted(endings)[:SHOWN_ENDINGS])
        for part, names in self.extensions().items():
            if not endings.intersection(names):
                raise UsageError(
                    f"the tars of {self.shards!r} have no member that ends in .{' or .'.join(names)}, of which {part} "
                    f"is read; there are: {there}{examples.describe_metadata(self.metadata)}. Name its ending in the "
                    "source, or read examples without it (text= in a source string)"
                )
        return examples


def _unread_members(shards: Sequence[Shard], extensions: Extensions) -> tuple[int, str]:
    """Count the members of keys that have none of the extensions, and list their endings."""
    endings: Counter[str] = Counter()
    for shard in shards:
        for kind, count in shard.summary.unread(extensions).items():
            endings.update(dict.fromkeys(kind.split("/"), count))
    shown = [f".{ending[:40]} ({count})" for ending, count in endings.most_common(SHOWN_ENDINGS)]
    return endings.total(), ", ".join(shown + ["..."] * (len(endings) > SHOWN_ENDINGS))


class TarExamples(ShardedExamples, EncodedExamples):
    """Read the examples of indexed shards; ``counts``: the number of examples of each."""

    def __init__(self, source: TarShards, shards: Sequence[Shard], counts: Sequence[int]):
        EncodedExamples.__init__(self, source)
        ShardedExamples.__init__(self, [shard.path for shard in shards], counts)
        self._parts, self._indexed = len(source.parts()), shards
        self._extensions = {**source.extensions(), "metadata": (source.metadata,)}
        self._columns = {part: column for column, part in enumerate(self._extensions)}
        self._cached: LruCache[Locations] = LruCache(CACHED_BYTES, operator.attrgetter("nbytes"))

    def shard_facts(self) -> Sequence[Any]:
        return [shard.summary.digest for shard in self._indexed]

    def sizes(self, name: str) -> np.ndarray:
        """Return the sizes of a member, from the indices of all shards; 0 for a stretch that cannot be read."""
        if name not in self.source.parts():
            return super().sizes(name)
        with ThreadPoolExecutor(THREADS) as pool:
            return np.concatenate(list(pool.map(lambda number: self._sizes(number, name), range(len(self._indexed)))))

    def _sizes(self, number: int, name: str) -> np.ndarray:
        locations = self._locations(number)
        return np.append(locations.places["size"][:, self._columns[name]], np.zeros(len(locations.damage), np.int64))

    def _locations(self, number: int) -> Locations:
        shard, count = self._indexed[number], int(np.diff(self._ends, prepend=0)[number])
        locations = shard.index().select(list(self._extensions.values()), self._parts)
        if len(locations) != count:
            raise BadShard(f"the index of {shard.path} differs from its manifest: remove {shard.folder.root}")
        return locations

    def _find(self, index: int) -> tuple[str, Locations, int]:
        """Return the path of an example's shard, the places of the shard's examples, and the number there."""
        number, row = self.find(index)
        return self._shards[number], self._cached.get(number, lambda: self._locations(number)), row

    def key(self, index: int) -> str:
        """Return the name of the shard and the key, as ``00003.tar/000/12``."""
        path, locations, row = self._find(index)
        return f"{posixpath.basename(path)}/{locations.key(row)}"

    def content(self, index: int, part: str) -> bytes:
        path, locations, row = self._find(index)
        if damage := locations.damage_at(row):
            raise BadSample(path, damage)
        extension, offset, size = locations.places[row, self._columns[part]].item()
        example = f"{path}, example {locations.key(row)!r}"
        if extension == tar_index.MISSING:
            expected = " or ".join(f".{name}" for name in self._extensions[part])
            raise BadSample(example, f"it has no member {expected}")
        if extension == tar_index.DUPLICATE:
            raise BadSample(example, f"the tar has two members of one name for its {part}")
        if offset == tar_index.ELSEWHERE:
            raise BadSample(self.place(index, part), "it is a link to a file that the tar lacks, or a sparse file")
        left = max(self._indexed[self.find(index)[0]].summary.size - offset, 0)
        content = read_bytes(path, offset, min(size, left))
        if len(content) < size:
            raise BadSample(self.place(index, part), f"the tar ends after {len(content)} of its {size} bytes")
        return content

    def place(self, index: int, part: str) -> str:
        path, locations, row = self._find(index)
        extension = self._extensions[part][locations.places["extension"][row, self._columns[part]]]
        return f"{path}, member {locations.key(row)}.{extension}"

    def describe_metadata(self, extension: str) -> str:
        """Return a clause on the names in the metadata of the first example that has some."""
        for index in range(min(len(self), 100)):
            with contextlib.suppress(JaxrepError):
                if names := list(self.metadata(index)):
                    shown = ", ".join(name[:40] for name in names[:SHOWN_ENDINGS])
                    return f"; a .{extension} holds {shown}, which are metadata and no text of an example"
        return ""

    def metadata(self, index: int) -> Mapping[str, Any]:
        _, locations, row = self._find(index)
        if not locations.damage_at(row) and locations.places["extension"][row, -1] == tar_index.MISSING:
            return {}
        try:
            metadata = json.loads(self.content(index, "metadata"))
        except ValueError as error:
            raise BadSample(self.place(index, "metadata"), f"the metadata are not JSON ({error})") from error
        return metadata if isinstance(metadata, dict) else {}
