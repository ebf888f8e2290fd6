"""Read image-text pairs from tar files in WebDataset's layout: the members of one key form an example.

A member's name is its key up to the first dot of the last folder, then its extension: ``000/12.jpg`` and
``000/12.txt`` are the image and the caption of the example ``000/12``. The headers of a tar are read once, and its
index is kept beside it or in the cache, so that every order reads as fast as the order of the file. The index of a
shard is in memory while it is used: memory does not grow with the number of examples.
"""

import contextlib
import dataclasses
import operator
import posixpath
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data._util.parallel import thread_map
from jaxrep.data._util.ranges import Range, join_ranges
from jaxrep.data.source import Examples, tell_once
from jaxrep.data.sources.encoded import (
    EncodedExamples,
    EncodedSource,
    ShardedExamples,
    value_or,
)
from jaxrep.data.sources.numbers import Numbers, label_digits
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.tar import index as tar_index
from jaxrep.data.sources.tar import tables
from jaxrep.data.sources.tar.index import Extensions, Locations
from jaxrep.data.sources.tar.manifest import THREADS, Shard, endings_of, index_shards
from jaxrep.data.sources.tar.members import Member, json_content, read_json
from jaxrep.data.sources.tar.tables import Differences
from jaxrep.data.sources.values import Content
from jaxrep.errors import BadSample, BadShard, JaxrepError, UsageError, hint
from jaxrep.spec import spec
from jaxrep.storage import FileVersion, read_bytes

Piece = tuple[int, bytes]
"""Offset in a shard, and the bytes from there on."""

CACHED_BYTES = 128 * 2**20
"""Bytes of indices in memory, those of the last shards: about 180 shards of 10,000 examples with three members, so that
the windows of ``Windowed`` before and after a border have room."""
MAX_UNREAD_SHARE = 0.01
"""Members that are not read, per example, without a word."""
SHOWN_ENDINGS = 10
AHEAD = 32
"""Shards of which a column is read ahead."""
SEARCHED = 100
"""Examples in which a name of the metadata is looked for."""


@spec
class TarShards(EncodedSource):
    """Read the examples in tar files, shard after shard (WebDataset's layout)."""

    shards: str | tuple[str, ...]
    """Paths, URLs or patterns, with braces (train-{00000..00099}.tar) and globs (*.tar)."""
    image: tuple[str, ...] = ("jpg", "jpeg", "png", "webp")
    """Extensions of images; empty: none."""
    text: str = "txt"
    """Extension of captions, or a path in a member of JSON (json:caption), also to a list of captions; empty: none."""
    label: str = ""
    """Extension of class numbers, often cls, or a path in JSON; empty: none."""
    captions: tuple[str, ...] = ()
    """Extensions or paths of further captions: each is a field of this name, or of the last name of the path."""
    numbers: Mapping[str, str | Numbers] = dataclasses.field(default_factory=dict)
    """Fields of numbers: where each is; an extension (npy) or a path (json:similarity) alone is one float32."""
    metadata: str = "json"
    """Extension of metadata, an object in JSON; read only when one of its columns is read, and no table beside the tar
    has it (00000.parquet, with a column of keys)."""

    def members(self) -> dict[str, Member]:
        """Return where each part is."""
        single = {"text": self.text, "label": self.label} | dict(
            zip(self.further_captions(), self.captions, strict=True)
        )
        single |= {name: numbers.at for name, numbers in self.number_parts().items()}
        image = {"image": Member(self.image)} if self.image else {}
        named = {part: Member.parse(where) for part, where in single.items() if where or part in self.numbers}
        return image | named

    def further_captions(self) -> tuple[str, ...]:
        return tuple(where.rpartition(":")[2].rpartition(".")[2] if ":" in where else where for where in self.captions)

    def number_parts(self) -> Mapping[str, Numbers]:
        named = self.numbers.items()
        return {name: Numbers(at=where) if isinstance(where, str) else where for name, where in named}

    def extensions(self) -> dict[str, tuple[str, ...]]:
        """Return the extensions of each part, the preferred one first."""
        return {part: member.extensions for part, member in self.members().items()}

    def parts(self) -> tuple[str, ...]:
        return tuple(self.members())

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        for part, member in self.members().items():
            if part == "image" and any(":" in extension for extension in member.extensions):
                yield f"an image is a member of its own, and {':'.join(member.extensions)} is a path in JSON"
            if not all(member.extensions) or member.path == "":
                yield f"{part} is an extension, or EXTENSION:PATH as json:caption, not {member}"

    def open(self) -> Examples:
        shards = index_shards(files(self.shards))
        examples = TarExamples(self, shards, _count_examples(self, shards))
        endings = endings_of(shards)
        there = ", ".join(f".{ending[:40]}" for ending in sorted(endings)[:SHOWN_ENDINGS])
        for part, names in self.extensions().items():
            if not endings.intersection(names):
                raise UsageError(
                    f"the tars of {self.shards!r} have no member that ends in .{' or .'.join(names)}, of which {part} "
                    f"is read; there are: {there}{examples.describe_metadata(self.metadata)}. Name its ending in the "
                    "source, or read examples without it (text= in a source string)"
                )
        examples.check_paths()
        return examples


def _count_examples(source: TarShards, shards: Sequence[Shard]) -> list[int]:
    """Count the examples of each shard; say what is not read. Raises UsageError: there is no example."""
    extensions = list(source.extensions().values())
    counts = [shard.summary.count_examples(extensions) for shard in shards]
    damage = [f"; {shard.path}: {text}" for shard in shards for text in shard.summary.damage]
    wanted = ", ".join(dict.fromkeys(f".{name}" for names in extensions for name in names))
    unread, endings = _unread_members(shards, extensions)
    if sum(counts) == len(damage):
        reasons = "".join([f"; there are: {endings}"] * (unread > 0) + damage[:1])
        raise UsageError(f"the tars of {source.shards!r} have no member that ends in {wanted}{reasons}")
    if unread > MAX_UNREAD_SHARE * sum(counts):
        print(
            f"the tars of {source.shards!r} have {unread} members that are not read, since their keys have no member "
            f"that ends in {wanted} (a key ends at the first dot of a name): {endings}",
            file=sys.stderr,
        )
    kinds = sum((Counter(shard.summary.kinds) for shard in shards), Counter())
    if images := sum(count for kind, count in kinds.items() if len({*source.image} & {*kind.split("/")}) > 1):
        order = ", ".join(f".{name}" for name in source.image)
        print(
            f"the tars of {source.shards!r} have {images} examples with several images, of which the first of {order} "
            "is read",
            file=sys.stderr,
        )
    return counts


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
        self._members = {**source.members(), "metadata": Member((source.metadata,))}
        self._extensions = {part: member.extensions for part, member in self._members.items()}
        self._columns = {part: column for column, part in enumerate(self._extensions)}
        self._cached: LruCache[Locations] = LruCache(CACHED_BYTES, operator.attrgetter("nbytes"))

    def shard_facts(self) -> Sequence[Any]:
        return [shard.summary.digest for shard in self._indexed]

    def read_from(self, name: str) -> str:
        """Return the endings of a part that exist: others make no difference."""
        if name not in self.source.parts():
            return ""
        member, there = self._members[name], endings_of(self._indexed)
        return str(member._replace(extensions=tuple(x for x in member.extensions if x in there)))

    def column_names(self) -> Sequence[str]:
        return tuple(dict.fromkeys([*super().column_names(), *tables.column_types(self._shards[0])]))

    def sizes(self, name: str) -> np.ndarray:
        """Return the sizes of a member, from the indices of all shards; 0 for a stretch that cannot be read."""
        if name not in self.source.parts() or name in self._numbers or self._members[name].path is not None:
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

    def content(self, index: int, part: str) -> Content:
        return self._in_member(part, self._member(index, part, self._read(index, [part])))

    def _in_member(self, part: str, content: bytes) -> Content:
        """Return a part in the bytes of its member. Raises ValueError: its JSON lacks it."""
        path = self._members[part].path
        if path is None:
            return label_digits(content) if part == "label" else content
        return json_content(read_json(content), path, texts=part != "label" and part not in self._numbers)

    def contents(self, index: int, only: str = "") -> dict[str, Any]:
        """Read every part of an example; members that lie near each other by one read."""
        parts = [part for part in self.source.parts() if part == (only or part)]
        contents, pieces = {}, self._read(index, parts)
        for part in parts:
            with self.explain_errors(index, part):
                contents[part] = self._in_member(part, self._member(index, part, pieces))
        return contents

    def version(self, number: int) -> FileVersion:
        return self._indexed[number].summary.version

    def ranges(self, number: int, rows: np.ndarray) -> list[Range]:
        locations = self._cached.get(number, lambda: self._locations(number))
        return [piece for row in rows.tolist() for piece in self._ranges(number, locations, row, self.source.parts())]

    def _ranges(self, number: int, locations: Locations, row: int, parts: Sequence[str]) -> list[Range]:
        """Return where the members of some parts lie, as far as the index knows that."""
        if locations.damage_at(row):
            return []
        places = locations.places[row, [self._columns[part] for part in parts]]
        places = places[(places["extension"] >= 0) & (places["offset"] >= 0)]
        end = self._indexed[number].summary.size
        return join_ranges((min(start, end), min(start + size, end)) for _, start, size in places.tolist())

    def _read(self, index: int, parts: Sequence[str]) -> list[Piece]:
        """Read the bytes of the members of some parts."""
        path, locations, row = self._find(index)
        ranges = self._ranges(self.find(index)[0], locations, row, parts)
        return [(start, read_bytes(path, start, end - start)) for start, end in ranges]

    def _member(self, index: int, part: str, pieces: list[Piece]) -> bytes:
        """Return the bytes of a part, cut from ``pieces`` of the shard. Raises BadSample."""
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
        start, piece = [piece for piece in pieces if piece[0] <= offset][-1]
        content = piece[offset - start : offset - start + size]
        if len(content) < size:
            raise BadSample(self.place(index, part), f"the tar ends after {len(content)} of its {size} bytes")
        return content

    def place(self, index: int, part: str) -> str:
        path, locations, row = self._find(index)
        extension = self._extensions[part][locations.places["extension"][row, self._columns[part]]]
        return f"{path}, member {locations.key(row)}.{extension}"

    def describe_metadata(self, extension: str) -> str:
        """Return a clause on the names in the metadata of the first example that has some."""
        for index in range(min(len(self), SEARCHED)):
            with contextlib.suppress(JaxrepError):
                if names := list(self.metadata(index)):
                    shown = ", ".join(name[:40] for name in names[:SHOWN_ENDINGS])
                    return (
                        f"; a .{extension} holds {shown}, each of which is read by its path, as {extension}:{names[0]}"
                    )
        return ""

    def check_paths(self) -> None:
        """Check that the paths in JSON exist: in the table beside the first shard, or in one of the first examples.

        Raises UsageError: none of them has the path, or numbers there where numbers are read.
        """
        paths = {part: member for part, member in self._members.items() if member.path is not None}
        if not paths:
            return
        types = tables.column_types(self._shards[0])
        for part, member in paths.items():
            numbers = self._numbers.get(part)
            if member.path not in types or (numbers and types[member.path] in tables.TEXTS):
                first = range(min(len(self), SEARCHED))
                documents = (value_or(None, self._document, index, part) for index in first)
                member.check(part, documents, self._shards[0], numbers.decode if numbers else None)

    def _document(self, index: int, part: str) -> Any:
        return read_json(self._member(index, part, self._read(index, [part])))

    def metadata(self, index: int) -> Mapping[str, Any]:
        _, locations, row = self._find(index)
        if not locations.damage_at(row) and locations.places["extension"][row, -1] == tar_index.MISSING:
            return {}
        with self.explain_errors(index, "metadata"):
            metadata = self._document(index, "metadata")
        return metadata if isinstance(metadata, dict) else {}

    def column_parts(self, name: str) -> Iterator[Any]:
        """Read a column of the metadata shard by shard: from the table beside it, else from members of JSON."""
        if name in self._names:
            yield from super().column_parts(name)
            return
        differences, known = Differences(), False
        shards = range(len(self._indexed))
        with contextlib.closing(
            thread_map(lambda shard: self._shard_column(shard, name), shards, AHEAD, THREADS)
        ) as columns:
            for shard, future in zip(shards, columns, strict=True):
                column = future.result()
                differences.add(self._shards[shard], column.facts)
                known |= column.known
                yield column.values
        if not known:
            raise UsageError(f"the examples have no column '{name}'; {hint(name, self.column_names())}")
        if sentence := differences.sentence(len(shards)):
            tell_once(f"the metadata of {self._shards[0]} and {len(shards) - 1} other shards: {sentence}")

    def _shard_column(self, number: int, name: str) -> tables.ShardColumn:
        locations = self._locations(number)
        start, rows = int(self._ends[number]) - len(locations), range(len(locations.ends))
        keys = [locations.key(row) for row in rows]
        column = tables.read_column(
            self._shards[number], name, keys, lambda row: value_or({}, self.metadata, start + row)
        )
        return column.with_unknown(len(locations.damage))
