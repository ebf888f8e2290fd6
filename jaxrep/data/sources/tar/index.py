"""Index a tar: find the places of its members by reading its headers once, and keep them as a compact table.

A member's name is its key up to the first dot of the last folder, then its extension; the members of one key form an
example. An unreadable stretch of the tar has a row, too, so that counting examples counts every loss.
"""

import dataclasses
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

from jaxrep.errors import UsageError
from jaxrep.storage import FileVersion, file_version, open_stream

VERSION = 1
MISSING, DUPLICATE = -1, -2
"""Instead of an extension: the example lacks the part; the tar has two members of this name."""

Extensions = Sequence[Sequence[str]]
"""The extensions that each part of an example may have; the first one that a key has is read."""

MEMBER = np.dtype([("example", "u4"), ("extension", "u2"), ("offset", "i8"), ("size", "i8")])
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class ShardSummary(NamedTuple):
    """Hold what the manifest states of a shard: JSON values by ``_asdict``, and back by ``ShardSummary(**row)``."""

    size: int
    stamp: str
    kinds: dict[str, int]  # sorted extensions of an example, joined by commas -> number of examples that have them
    damage: list[str]  # a sentence per stretch that cannot be read

    @property
    def version(self) -> FileVersion:
        """Version of the shard."""
        return FileVersion(self.size, self.stamp)

    def count_examples(self, extensions: Extensions) -> int:
        """Count the examples with at least one of the extensions, and the stretches that cannot be read."""
        wanted = {name for names in extensions for name in names}
        examples = sum(count for kind, count in self.kinds.items() if wanted & set(kind.split(",")))
        return examples + len(self.damage)


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
        extension = np.full((len(self.ends), len(wanted)), MISSING, np.int16)
        offset, size = np.zeros(extension.shape, np.int64), np.zeros(extension.shape, np.int64)
        for part, names in enumerate(wanted):
            ranks = np.array([names.index(name) if name in names else MISSING for name in self.extensions], np.int16)
            rank = ranks[self.members["extension"]] if len(ranks) else np.zeros(0, np.int16)
            members, rank = self.members[rank != MISSING], rank[rank != MISSING]
            order = np.lexsort((rank, members["example"]))
            members, rank = members[order], rank[order]
            same = members["example"][1:] == members["example"][:-1]
            first = np.flatnonzero(np.concatenate([[True], ~same])[: len(members)])
            duplicate = np.append(same & (rank[1:] == rank[:-1]), False)[first]
            example = members["example"][first]
            extension[example, part] = np.where(duplicate, DUPLICATE, rank[first])
            offset[example, part], size[example, part] = members["offset"][first], members["size"][first]
        kept = np.flatnonzero((extension[:, :parts] != MISSING).any(axis=1))
        starts = np.concatenate([[0], self.ends[:-1]]).astype(np.uint32)[: len(self.ends)]
        return Locations(
            self.keys, starts[kept], self.ends[kept], extension[kept], offset[kept], size[kept], self.summary.damage
        )

    def dump(self) -> bytes:
        """Return the content of a sidecar: a .npz file."""
        head = json.dumps({"version": VERSION, "row": self.summary._asdict(), "extensions": self.extensions})
        body = io.BytesIO()
        np.savez(body, head=np.array(head), keys=self.keys, ends=self.ends, members=self.members)
        return body.getvalue()

    @classmethod
    def load(cls, content: bytes) -> "ShardIndex | None":
        """Return the index in a sidecar; None if it is damaged or of another version."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:  # its parts have checksums
                head = json.loads(str(file["head"]))
                if head["version"] != VERSION:
                    return None
                summary, extensions = ShardSummary(**head["row"]), tuple(head["extensions"])
                return cls(summary, file["keys"], file["ends"], extensions, file["members"])
        except Exception:  # a damaged file gives errors of zip, JSON and NumPy; the index is made again
            return None


@dataclasses.dataclass(frozen=True)
class Locations:
    """Hold the places of the wanted parts of a shard's examples, [n, parts] each."""

    keys: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    extension: np.ndarray  # which of the part's extensions; MISSING, DUPLICATE
    offset: np.ndarray
    size: np.ndarray
    damage: list[str]

    def __len__(self) -> int:
        return len(self.ends) + len(self.damage)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))

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
        _refuse_compressed(path, file)
        plain, damage = members(file, version.size)
    return tabulate(plain, version, damage)


def _refuse_compressed(path: str, file: IO[bytes]) -> None:
    start = file.read(8)
    for magic, name in COMPRESSED.items():
        if start.startswith(magic):
            raise UsageError(f"{path} is compressed by {name}, so its members cannot be read one by one: decompress it")
    file.seek(0)


def members(file: IO[bytes], size: int) -> tuple[list[tarfile.TarInfo], list[str]]:
    """Return the plain files of a tar of ``size`` bytes, and a sentence per stretch that cannot be read."""
    plain, damage, end = [], [], 0
    for member in _headers(file):
        if gap := _gap(file, end, member.offset):
            damage.append(gap)
        stored = member.size if member.isreg() else 0
        end = member.offset_data + -(-stored // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.isreg():
            plain.append(member)
    if end >= size:
        damage.append(f"the tar was cut short at byte {size} and the rest is lost")
    elif rest := _gap(file, end, size):
        damage.append(rest)
    return plain, damage


def _headers(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Yield every readable header; after an unreadable one, search for the next."""
    try:
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
            while member := tar.next():
                yield member
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  tarfile keeps them all
    except tarfile.TarError:
        return  # the caller reports what follows as a gap


def _gap(file: IO[bytes], start: int, stop: int) -> str:
    """Describe the bytes between two members; nothing if they are zeros, the end of a tar."""
    position = file.tell()
    file.seek(start)
    while start < stop and (block := file.read(min(2**20, stop - start))):
        if block.count(0) < len(block):
            first = start + next(i for i, byte in enumerate(block) if byte)
            file.seek(position)
            return f"no member can be read between the bytes {first} and {stop} of the tar"
        start += len(block)
    file.seek(position)
    return ""


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and extension in small letters: ``a/b.seg.PNG`` -> ``a/b``, ``seg.png``."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def tabulate(plain: Sequence[tarfile.TarInfo], version: FileVersion, damage: Sequence[str]) -> ShardIndex:
    """Return the index of a shard with these members."""
    examples: dict[str, list[tuple[str, int, int]]] = {}
    for member in plain:
        key, extension = split_name(member.name)
        examples.setdefault(key, []).append((extension, member.offset_data, member.size))
    numbers = {name: n for n, name in enumerate(sorted({e for parts in examples.values() for e, *_ in parts}))}
    rows = [(n, numbers[e], offset, size) for n, parts in enumerate(examples.values()) for e, offset, size in parts]
    keys = [key.encode(errors="surrogateescape") for key in examples]
    kinds = Counter(",".join(sorted({e for e, *_ in parts})) for parts in examples.values())
    return ShardIndex(
        ShardSummary(*version, dict(kinds), list(damage)),
        np.frombuffer(b"".join(keys), np.uint8),
        np.cumsum([len(key) for key in keys], dtype=np.uint32),
        tuple(numbers),
        np.array(rows, MEMBER),
    )
