"""Read the examples of indexed tar files: the members of one key by one read, and columns of their metadata."""

import contextlib
import operator
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from jaxrep.data._util.lru_cache import LruCache
from jaxrep.data._util.parallel import thread_map
from jaxrep.data._util.ranges import Range, join_ranges
from jaxrep.data.images.decode import MAX_BYTES
from jaxrep.data.source import tell_once
from jaxrep.data.sources.encoded import EncodedExamples, EncodedSource, ShardedExamples, value_or
from jaxrep.data.sources.numbers import label_digits
from jaxrep.data.sources.tar import index as tar_index
from jaxrep.data.sources.tar import tables
from jaxrep.data.sources.tar.index import Locations
from jaxrep.data.sources.tar.manifest import THREADS, Shard, endings_of
from jaxrep.data.sources.tar.members import Member, json_content, read_json
from jaxrep.data.sources.tar.tables import Differences
from jaxrep.data.sources.values import Content
from jaxrep.errors import BadSample, BadShard, JaxrepError, UsageError, hint
from jaxrep.storage import FileVersion, read_bytes

CACHED_BYTES = 128 * 2**20
"""Bytes of indices in memory, those of the last shards: about 180 shards of 10,000 examples with three members, so that
the windows of ``Windowed`` before and after a border have room."""
SHOWN_ENDINGS = 10
AHEAD = 32
"""Shards of which a column is read ahead."""
SEARCHED = 100
"""Examples in which a name of the metadata is looked for."""

Piece = tuple[int, bytes]
"""Offset in a shard, and the bytes from there on."""


class Found(NamedTuple):
    """Say where an example is: the number and the path of its shard, the places of all its examples, and the row."""

    number: int
    path: str
    locations: Locations
    row: int

    def __str__(self) -> str:
        return f"{self.path}, example {self.locations.key(self.row)!r}"


class TarExamples(ShardedExamples, EncodedExamples):
    """Read the examples of indexed shards; ``counts``: the number of examples of each.

    ``members``: where the parts of ``source`` are, and the metadata, last.
    """

    def __init__(
        self, source: EncodedSource, members: Mapping[str, Member], shards: Sequence[Shard], counts: Sequence[int]
    ):
        EncodedExamples.__init__(self, source)
        ShardedExamples.__init__(self, [shard.path for shard in shards], counts)
        self._parts, self._indexed = len(source.parts()), shards
        self._members = members
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

    def _find(self, index: int) -> Found:
        number, row = self.find(index)
        locations = self._cached.get(number, lambda: self._locations(number))
        return Found(number, self._shards[number], locations, row)

    def key(self, index: int) -> str:
        """Return the name of the shard and the key, as ``00003.tar/000/12``."""
        found = self._find(index)
        return f"{posixpath.basename(found.path)}/{found.locations.key(found.row)}"

    def content(self, index: int, part: str) -> Content:
        found = self._find(index)
        return self._in_member(part, self._member(found, part, self._read(found, [part])))

    def _in_member(self, part: str, content: bytes) -> Content:
        """Return a part in the bytes of its member. Raises ValueError: its JSON lacks it."""
        path = self._members[part].path
        if path is None:
            return label_digits(content) if part == "label" else content
        return json_content(read_json(content), path, texts=part != "label" and part not in self._numbers)

    def contents(self, index: int, only: str = "") -> dict[str, Any]:
        """Read every part of an example; members that lie near each other by one read."""
        parts = [part for part in self.source.parts() if part == (only or part)]
        found = self._find(index)
        contents, pieces = {}, self._read(found, parts)
        for part in parts:
            with self.explain_errors(index, part):
                contents[part] = self._in_member(part, self._member(found, part, pieces))
        return contents

    def version(self, number: int) -> FileVersion:
        return self._indexed[number].summary.version

    def ranges(self, number: int, rows: np.ndarray) -> list[Range]:
        locations = self._cached.get(number, lambda: self._locations(number))
        found, parts = Found(number, self._shards[number], locations, 0), self.source.parts()
        return [piece for row in rows.tolist() for piece in self._ranges(found._replace(row=row), parts)]

    def _ranges(self, found: Found, parts: Sequence[str]) -> list[Range]:
        """Return where the members of some parts lie, as far as the index knows that."""
        number, _, locations, row = found
        if locations.damage_at(row):
            return []
        places = locations.places[row, [self._columns[part] for part in parts]]
        places = places[(places["extension"] >= 0) & (places["offset"] >= 0)]
        end = self._indexed[number].summary.size
        inside = [(min(start, end), min(start + size, end)) for _, start, size in places.tolist()]
        return join_ranges((start, stop) for start, stop in inside if stop - start <= MAX_BYTES)

    def _read(self, found: Found, parts: Sequence[str]) -> list[Piece]:
        """Read the bytes of the members of some parts."""
        return [(start, read_bytes(found.path, start, end - start)) for start, end in self._ranges(found, parts)]

    def _member(self, found: Found, part: str, pieces: list[Piece]) -> bytes:
        """Return the bytes of a part, cut from ``pieces`` of the shard. Raises BadSample."""
        if damage := found.locations.damage_at(found.row):
            raise BadSample(found.path, damage)
        extension, offset, size = found.locations.places[found.row, self._columns[part]].item()
        if extension == tar_index.MISSING:
            expected = " or ".join(f".{name}" for name in self._extensions[part])
            raise BadSample(str(found), f"it has no member {expected}")
        if extension == tar_index.DUPLICATE:
            raise BadSample(str(found), f"the tar has two members of one name for its {part}")
        if offset == tar_index.ELSEWHERE:
            raise BadSample(self._place(found, part), "it is a link to a file that the tar lacks, or a sparse file")
        if min(size, self._indexed[found.number].summary.size - offset) > MAX_BYTES:
            raise BadSample(self._place(found, part), f"it has {size:,} bytes, and up to {MAX_BYTES:,} are read")
        start, piece = [piece for piece in pieces if piece[0] <= offset][-1]
        content = piece[offset - start : offset - start + size]
        if len(content) < size:
            raise BadSample(self._place(found, part), f"the tar ends after {len(content)} of its {size} bytes")
        return content

    def place(self, index: int, part: str) -> str:
        return self._place(self._find(index), part)

    def _place(self, found: Found, part: str) -> str:
        extension = self._extensions[part][found.locations.places["extension"][found.row, self._columns[part]]]
        return f"{found.path}, member {found.locations.key(found.row)}.{extension}"

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
        found = self._find(index)
        return read_json(self._member(found, part, self._read(found, [part])))

    def metadata(self, index: int) -> Mapping[str, Any]:
        _, _, locations, row = self._find(index)
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
