"""Index a tar: find the places of its members by reading its headers once, and keep them as a compact table.

A member's name is its key up to the first dot of the last folder, then its extension; the members of one key form an
example. A link is read as the member that it names. An unreadable stretch of the tar has a row, too, so that counting
examples counts every loss.
"""

import dataclasses
import io
import json
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import typeguard

from jaxrep.data.source import digest
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.npy import read_npz
from jaxrep.storage import FileVersion, file_version, open_stream

FORMAT = 2
"""Version of the index."""
MISSING, DUPLICATE = -1, -2
"""Instead of an extension: the example lacks the part; the tar has two members of this name."""
ELSEWHERE = -1
"""Instead of an offset: a link to a file that the tar lacks, or a sparse file."""

Extensions = Sequence[Sequence[str]]
"""The extensions that each part of an example may have; the first one that a key has is read."""

MEMBER = np.dtype([("example", "u4"), ("extension", "u4"), ("offset", "i8"), ("size", "i8")])
PLACE = np.dtype([("extension", "i4"), ("offset", "i8"), ("size", "i8")])
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
MAX_HEADER_BYTES = 2**16
"""Largest header, with a long name."""
MAX_LINKS = 8
"""Longest chain of links."""


class ShardSummary(NamedTuple):
    """Hold what the manifest states of a shard: JSON values by ``_asdict``, and back by ``of``."""

    size: int
    stamp: str
    kinds: dict[str, int]  # sorted extensions of an example, joined by slashes -> number of examples that have them
    damage: list[str]  # a sentence per stretch that cannot be read
    digest: str = ""  # of the names, places and sizes of all members
    format: int = 1

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "ShardSummary":
        """Return the summary in a row of JSON. Raises TypeError, TypeCheckError: it has other fields."""
        return typeguard.check_type(cls(**row), cls)

    @property
    def version(self) -> FileVersion:
        """Version of the shard."""
        return FileVersion(self.size, self.stamp)

    def count_examples(self, extensions: Extensions) -> int:
        """Count the examples with at least one of the extensions, and the stretches that cannot be read."""
        unread = self.unread(extensions)
        return sum(count for kind, count in self.kinds.items() if kind not in unread) + len(self.damage)

    def unread(self, extensions: Extensions) -> dict[str, int]:
        """Return the kinds of examples that have none of the extensions."""
        wanted = {name for names in extensions for name in names}
        return {kind: count for kind, count in self.kinds.items() if not wanted & set(kind.split("/"))}


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """Hold the places of all members of a shard, those of one example in sequence."""

    summary: ShardSummary
    keys: np.ndarray  # uint8: the keys, concatenated
    ends: np.ndarray  # uint32 [n]: end of each key
    extensions: tuple[str, ...]
    members: np.ndarray  # MEMBER

    def select(self, wanted: Extensions, parts: int) -> "Locations":
        """Return the examples that have at least one extension of the first ``parts`` of ``wanted``."""
        places = np.zeros((len(self.ends), len(wanted)), PLACE)
        places["extension"] = MISSING
        for part, names in enumerate(wanted):
            ranks = np.array([names.index(name) if name in names else MISSING for name in self.extensions], np.int32)
            rank = ranks[self.members["extension"]]
            order = np.lexsort((rank, self.members["example"]))
            order = order[rank[order] != MISSING]
            members, rank = self.members[order], rank[order]
            example, first = np.unique(members["example"], return_index=True)
            twice = np.append((np.diff(members["example"]) == 0) & (np.diff(rank) == 0), False)[first]
            places["extension"][example, part] = np.where(twice, DUPLICATE, rank[first])
            places["offset"][example, part] = members["offset"][first]
            places["size"][example, part] = members["size"][first]
        kept = np.flatnonzero((places["extension"][:, :parts] != MISSING).any(axis=1))
        starts = np.append(np.uint32(0), self.ends)
        return Locations(self.keys, starts[kept], self.ends[kept], places[kept], self.summary.damage)

    def dump(self) -> bytes:
        """Return the content of a sidecar: a .npz file."""
        head = json.dumps({"row": self.summary._asdict(), "extensions": self.extensions})
        body = io.BytesIO()
        np.savez(body, head=np.array(head), keys=self.keys, ends=self.ends, members=self.members)
        return body.getvalue()

    @classmethod
    def load(cls, content: bytes) -> "ShardIndex | None":
        """Return the index in a sidecar; None if it is damaged or of another format."""
        try:
            parts = read_npz(io.BytesIO(content), limit=len(content))  # with checksums; no sidecar is compressed
            head = json.loads(str(parts.pop("head")))
            summary, extensions = ShardSummary.of(head["row"]), tuple(head["extensions"])
            index = cls(summary, extensions=extensions, **parts)
            members = index.members
            inside = (members["example"] < len(index.ends)).all() and (members["extension"] < len(extensions)).all()
            return index if inside and summary.format == FORMAT else None
        except Exception:  # a damaged file gives errors of zip, JSON and NumPy; the index is made again
            return None


@dataclasses.dataclass(frozen=True)
class Locations:
    """Hold the places of the wanted parts of a shard's examples."""

    keys: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    places: np.ndarray  # PLACE [n, parts]; extension: which of the part's extensions, MISSING or DUPLICATE
    damage: list[str]

    def __len__(self) -> int:
        return len(self.ends) + len(self.damage)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.keys.nbytes + self.starts.nbytes + self.ends.nbytes + self.places.nbytes

    def key(self, index: int) -> str:
        """Return the key of an example, or a name for a stretch that cannot be read."""
        if self.damage_at(index):
            return f"(damage {index - len(self.ends) + 1})"
        return bytes(self.keys[self.starts[index] : self.ends[index]]).decode(errors="backslashreplace")

    def damage_at(self, index: int) -> str:
        """Return why row ``index`` cannot be read; empty for an example."""
        return self.damage[index - len(self.ends)] if index >= len(self.ends) else ""


# Reading headers -----------------------------------------------------------------------------------------------------


def scan(path: str) -> ShardIndex:
    """Index a tar, remote or local, by reading it from its start to its end.

    Raises UsageError: it is compressed; BadShard: it cannot be read.
    """
    version = file_version(path)
    with open_stream(path) as file:
        start = file.read(8)
        if name := next((name for magic, name in COMPRESSED.items() if start.startswith(magic)), ""):
            raise UsageError(f"{path} is compressed by {name}, so its members cannot be read one by one: decompress it")
        return tabulate(*members(file, version.size), version)


def members(file: IO[bytes], size: int) -> tuple[list[tarfile.TarInfo], list[str]]:
    """Return the members of a tar of ``size`` bytes, and a sentence per stretch that cannot be read."""
    found, damage, end, cut = [], [], 0, not size
    for member, following in list(_headers(file, size)):  # a gap is read after all headers
        damage += _gap(file, end, member.offset)
        cut = following > size
        end = member.offset_data if cut else following
        found.append(member)
    damage += [f"the tar was cut short at byte {size} and the rest is lost"] if cut else _gap(file, end, size)
    return found, damage


def _headers(file: IO[bytes], size: int) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Yield every member and the position after it; after an unreadable header, search for the next."""
    position = 0
    while position < size:
        file.seek(position)
        try:
            with tarfile.open(fileobj=_Headers(file, size), mode="r:", ignore_zeros=True) as tar:  # pyright: ignore
                while (member := tar.next()) and member.offset_data <= tar.offset and 0 <= member.size < 2**62:
                    yield member, tar.offset
                    tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  tarfile keeps them all
        except (JaxrepError, OSError):
            raise
        except Exception:  # a damaged header gives errors of many types; the caller reports what follows as a gap
            pass
        position = max(position + tarfile.BLOCKSIZE, _next_block(file.tell()))


class _Headers:
    """Let tarfile read headers: little at a time, and inside of a file of ``size`` bytes."""

    def __init__(self, file: IO[bytes], size: int):
        self.tell, self._file, self._size = file.tell, file, size

    def read(self, size: int) -> bytes:
        if size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header has {size} bytes")
        return self._file.read(size)

    def seek(self, position: int) -> int:
        if not 0 <= position <= self._size:
            raise tarfile.ReadError(f"there is no byte {position}")
        return self._file.seek(position)


def _next_block(position: int) -> int:
    return -(-position // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _gap(file: IO[bytes], start: int, stop: int) -> list[str]:
    """Describe the bytes between two members; nothing if they are zeros, the end of a tar."""
    file.seek(start)
    while start < stop and (block := file.read(min(2**20, stop - start))):
        if rest := block.lstrip(b"\0"):
            return [f"no member can be read between the bytes {start + len(block) - len(rest)} and {stop} of the tar"]
        start += len(block)
    return []


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and extension in small letters: ``a/b.seg.PNG`` -> ``a/b``, ``seg.png``."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def tabulate(found: Sequence[tarfile.TarInfo], damage: list[str], version: FileVersion) -> ShardIndex:
    """Return the index of a shard with these members."""
    linked = any(member.islnk() or member.issym() for member in found)
    by_name = {posixpath.normpath(member.name): member for member in found} if linked else {}
    examples: dict[str, list[tuple[str, int, int]]] = {}
    for member in found:
        if member.isreg() or member.islnk() or member.issym():
            key, extension = split_name(member.name)
            examples.setdefault(key, []).append((extension, *_content(member, by_name)))
    numbers = {name: n for n, name in enumerate(sorted({e for parts in examples.values() for e, *_ in parts}))}
    rows = [(n, numbers[e], offset, size) for n, parts in enumerate(examples.values()) for e, offset, size in parts]
    keys = [key.encode(errors="surrogateescape") for key in examples]
    kinds = Counter("/".join(sorted({e for e, *_ in parts})) for parts in examples.values())
    return ShardIndex(
        ShardSummary(*version, dict(kinds), damage, digest([keys, rows, numbers]), FORMAT),
        np.frombuffer(b"".join(keys), np.uint8),
        np.cumsum([len(key) for key in keys], dtype=np.uint32),
        tuple(numbers),
        np.array(rows, MEMBER),
    )


def _content(member: tarfile.TarInfo | None, by_name: Mapping[str, tarfile.TarInfo]) -> tuple[int, int]:
    """Return the offset and the size of a member's content, or of that of the member to which it links."""
    for _ in range(MAX_LINKS):
        if member and (member.islnk() or member.issym()):
            folder = posixpath.dirname(member.name) if member.issym() else ""
            member = by_name.get(posixpath.normpath(posixpath.join(folder, member.linkname)))
    if member and member.isreg() and not member.issparse():
        return member.offset_data, member.size
    return ELSEWHERE, 0
