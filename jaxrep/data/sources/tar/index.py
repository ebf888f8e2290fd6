"""Where the members of a tar lie, found by reading its headers once and kept as a compact table.

A member's name is its key up to the first dot of the last folder, then its extension; the members of one key form an
example. What of a tar cannot be read is a row of its own, so that counting examples counts every loss.
"""

import dataclasses
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from jaxrep.errors import UsageError
from jaxrep.storage import Facts, facts, stream

VERSION = 1
MISSING, TWICE = -1, -2
"""In place of an extension: the example lacks the part; the tar holds two members of this name."""

Extensions = Sequence[Sequence[str]]
"""Of each part of an example, the extensions that it may have; the first one that a key has counts."""

MEMBER = np.dtype([("example", "u4"), ("extension", "u2"), ("offset", "i8"), ("size", "i8")])
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclasses.dataclass(frozen=True)
class Row:
    """What the manifest says of a shard."""

    facts: Facts
    kinds: dict[str, int]  # extensions of an example, sorted and joined by commas -> how many examples have them
    damage: tuple[str, ...]  # what could not be read, a sentence each

    def count(self, extensions: Extensions) -> int:
        """Examples that have one of the extensions at least, and stretches that cannot be read."""
        wanted = {name for names in extensions for name in names}
        held = sum(count for kind, count in self.kinds.items() if wanted & set(kind.split(",")))
        return held + len(self.damage)


@dataclasses.dataclass(frozen=True)
class Table:
    """All members of a shard, those of one example side by side."""

    row: Row
    keys: np.ndarray  # uint8: the keys, one after the other
    ends: np.ndarray  # uint32 [n]: where each ends
    extensions: tuple[str, ...]
    members: np.ndarray  # MEMBER

    def select(self, wanted: Extensions, parts: int) -> "Places":
        """The examples that have one extension of the first ``parts`` of ``wanted`` at least."""
        extension = np.full((len(self.ends), len(wanted)), MISSING, np.int16)
        offset, size = np.zeros(extension.shape, np.int64), np.zeros(extension.shape, np.int64)
        for part, names in enumerate(wanted):
            ranks = np.array([names.index(name) if name in names else MISSING for name in self.extensions], np.int16)
            rank = ranks[self.members["extension"]] if len(ranks) else np.zeros(0, np.int16)
            found, rank = self.members[rank != MISSING], rank[rank != MISSING]
            order = np.lexsort((rank, found["example"]))
            found, rank = found[order], rank[order]
            same = found["example"][1:] == found["example"][:-1]
            first = np.flatnonzero(np.concatenate([[True], ~same])[: len(found)])
            twice = np.append(same & (rank[1:] == rank[:-1]), False)[first]
            at = found["example"][first]
            extension[at, part] = np.where(twice, TWICE, rank[first])
            offset[at, part], size[at, part] = found["offset"][first], found["size"][first]
        kept = np.flatnonzero((extension[:, :parts] != MISSING).any(axis=1))
        starts = np.concatenate([[0], self.ends[:-1]]).astype(np.uint32)[: len(self.ends)]
        return Places(self.keys, starts[kept], self.ends[kept], extension[kept], offset[kept], size[kept], self.row)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the wanted parts of a shard's examples lie; [n, parts] each."""

    keys: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    extension: np.ndarray  # which of the part's extensions; MISSING, TWICE
    offset: np.ndarray
    size: np.ndarray
    row: Row

    def __len__(self) -> int:
        return len(self.ends) + len(self.row.damage)

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(getattr(self, field.name).nbytes for field in dataclasses.fields(self) if field.name != "row")

    def key(self, index: int) -> str:
        """The key of an example; of what cannot be read, a name in its place."""
        if self.damage(index):
            return f"(damage {index - len(self.ends) + 1})"
        return bytes(self.keys[self.starts[index] : self.ends[index]]).decode(errors="backslashreplace")

    def damage(self, index: int) -> str:
        """Why row ``index`` cannot be read; empty where it is an example."""
        return self.row.damage[index - len(self.ends)] if index >= len(self.ends) else ""


# Reading headers -----------------------------------------------------------------------------------------------------


def scan(path: str) -> Table:
    """Reads the headers of a tar, remote or local, from its start to its end.

    Raises UsageError: a compressed one; BadShard: it cannot be read.
    """
    held = facts(path)
    with stream(path) as file:
        _refuse_compressed(path, file)
        found, damage = members(file, held.size)
    return tabulate(found, held, damage)


def _refuse_compressed(path: str, file: IO[bytes]) -> None:
    start = file.read(8)
    for magic, name in COMPRESSED.items():
        if start.startswith(magic):
            raise UsageError(f"{path} is compressed by {name}, so its members cannot be read one by one: decompress it")
    file.seek(0)


def members(file: IO[bytes], size: int) -> tuple[list[tarfile.TarInfo], list[str]]:
    """The plain files of a tar of ``size`` bytes, and a sentence on each stretch that cannot be read."""
    found, damage, end = [], [], 0
    for member in _headers(file):
        if gap := _gap(file, end, member.offset):
            damage.append(gap)
        end = member.offset_data + -(-_stored(member) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.isreg():
            found.append(member)
    if end >= size:
        damage.append(f"the tar was cut short at byte {size} and the rest is lost")
    elif rest := _gap(file, end, size):
        damage.append(rest)
    return found, damage


def _headers(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """Every header that can be read; the search for the next goes on behind one that cannot."""
    try:
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=True) as tar:
            while member := tar.next():
                yield member
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  tarfile keeps them all
    except tarfile.TarError:
        return  # what lies behind is told by its first byte


def _stored(member: tarfile.TarInfo) -> int:
    return member.size if member.isreg() else 0


def _gap(file: IO[bytes], start: int, stop: int) -> str:
    """What is said of the bytes between two members; nothing where they are zeros, the end of a tar."""
    at = file.tell()
    file.seek(start)
    while start < stop and (block := file.read(min(2**20, stop - start))):
        if block.count(0) < len(block):
            where = start + next(i for i, byte in enumerate(block) if byte)
            file.seek(at)
            return f"no member can be read between the bytes {where} and {stop} of the tar"
        start += len(block)
    file.seek(at)
    return ""


# Tables --------------------------------------------------------------------------------------------------------------


def split_name(name: str) -> tuple[str, str]:
    """Key and extension (in small letters) of a member's name: ``a/b.seg.PNG`` -> ``a/b``, ``seg.png``."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def tabulate(found: Sequence[tarfile.TarInfo], held: Facts, damage: Sequence[str]) -> Table:
    """The table of a shard with these members."""
    examples: dict[str, list[tuple[str, int, int]]] = {}
    for member in found:
        key, extension = split_name(member.name)
        examples.setdefault(key, []).append((extension, member.offset_data, member.size))
    numbers = {name: n for n, name in enumerate(sorted({e for parts in examples.values() for e, *_ in parts}))}
    rows = [(n, numbers[e], at, size) for n, parts in enumerate(examples.values()) for e, at, size in parts]
    keys = [key.encode(errors="surrogateescape") for key in examples]
    kinds = Counter(",".join(sorted({e for e, *_ in parts})) for parts in examples.values())
    return Table(
        Row(held, dict(kinds), tuple(damage)),
        np.frombuffer(b"".join(keys), np.uint8),
        np.cumsum([len(key) for key in keys], dtype=np.uint32),
        tuple(numbers),
        np.array(rows, MEMBER),
    )


def dump(table: Table) -> bytes:
    """The content of a sidecar: a .npz file."""
    head = json.dumps({"version": VERSION, "row": encode_row(table.row), "extensions": table.extensions})
    body = io.BytesIO()
    np.savez(body, head=np.array(head), keys=table.keys, ends=table.ends, members=table.members)
    return body.getvalue()


def load(content: bytes) -> Table | None:
    """The table of a sidecar; None where it is damaged or of another version."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:  # its parts have checksums
            head = json.loads(str(file["head"]))
            if head["version"] != VERSION:
                return None
            return Table(
                decode_row(head["row"]), file["keys"], file["ends"], tuple(head["extensions"]), file["members"]
            )
    except Exception:  # whatever a damaged file makes of zip, JSON and NumPy: it is made again
        return None


def encode_row(row: Row) -> dict[str, Any]:
    """The row as JSON values."""
    return {"size": row.facts.size, "stamp": row.facts.stamp, "kinds": row.kinds, "damage": list(row.damage)}


def decode_row(row: dict[str, Any]) -> Row:
    """The inverse of ``encode_row``."""
    return Row(Facts(row["size"], row["stamp"]), row["kinds"], tuple(row["damage"]))
