"""Which shards are indexed, and how many examples each holds: one small file a folder, and a sidecar a shard.

Both lie in ``.jaxrep-index`` beside the shards, or in the cache. A shard whose size or time stamp is no longer that of
its index is indexed again. An indexing that was interrupted goes on: sidecars that are there are not made again.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from rich.console import Console
from rich.progress import track

from jaxrep.data.sources.tar import index as tar_index
from jaxrep.data.sources.tar.index import Row, Table
from jaxrep.disk_cache import cache_dir
from jaxrep.errors import BadShard
from jaxrep.storage import Facts, facts, read, remote, write_file

BESIDE = ".jaxrep-index"
FEW = 64
"""Shards that are indexed without a bar of progress."""


THREADS = 16
"""Requests at a time where a store is asked; most of their time is waiting."""


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Where the indices of one folder's shards lie."""

    root: str

    @classmethod
    def beside(cls, shards: str) -> "Shelf":
        """Next to the shards in the folder ``shards``."""
        return cls(f"{shards}/{BESIDE}")

    @classmethod
    def cached(cls, shards: str) -> "Shelf":
        """In the cache."""
        return cls(f"{cache_dir()}/tar/{hashlib.sha256(shards.encode()).hexdigest()[:32]}")

    def table(self, path: str, held: Facts) -> Table:
        """The table of a shard: its sidecar, which is made if it is missing or of another version of the shard."""
        sidecar = f"{self.root}/{split(path)[1]}.npz"
        content = _content(sidecar)
        found = tar_index.load(content) if content else None
        if found is None or found.row.facts != held:
            found = tar_index.scan(path)
            write_file(sidecar, tar_index.dump(found))
        return found

    def rows(self) -> dict[str, Row]:
        """The manifest: the row of each shard by its name."""
        content = _content(f"{self.root}/manifest.json")
        try:
            held = json.loads(content) if content else {}
            return {name: tar_index.decode_row(row) for name, row in held.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            print(f"{self.root}/manifest.json is damaged; making it again", file=sys.stderr)
            return {}

    def add(self, rows: dict[str, Row]) -> None:
        """Writes rows into the manifest, beside those that others have written meanwhile."""
        held = {name: tar_index.encode_row(row) for name, row in {**self.rows(), **rows}.items()}
        write_file(f"{self.root}/manifest.json", json.dumps(held).encode())


def _content(path: str) -> bytes | None:
    try:
        return read(path)
    except BadShard:  # there is none, or none that can be read: it is made
        return None


def split(path: str) -> tuple[str, str]:
    """Folder and name of a shard."""
    shards, slash, name = path.rpartition("/")
    return shards or slash or ".", name


@dataclasses.dataclass(frozen=True)
class Shard:
    """An indexed shard: which version of it, and where its table lies."""

    path: str
    facts: Facts
    shelf: Shelf

    def table(self) -> Table:
        """The table of the shard. Raises BadShard where it is no longer there or changed."""
        if (now := facts(self.path)) != self.facts:
            sizes = f"then {self.facts.size} bytes, now {now.size}"
            raise BadShard(f"{self.path} is another file than was indexed ({sizes}): start again, and it is indexed")
        return self.shelf.table(self.path, self.facts)


def index_shards(
    paths: Sequence[str], *, beside: bool = False, workers: int = 0, check: bool = False
) -> list[tuple[Shard, Row]]:
    """Every shard with its row of a manifest. Shards that none has, or another version of, are read from end to end.

    ``beside``: the index is to lie beside the shards. ``workers``: processes that read; 0: threads of this one.
    ``check``: remote shards are compared with the manifest now, not when their tables are read. Raises UsageError: no
    index can be written, a shard is compressed; BadShard: one cannot be read.
    """
    known = _known(paths, beside, check)
    new = [path for path in paths if path not in known]
    added: dict[Shelf, dict[str, Row]] = {}
    try:
        for path, (shard, row) in zip(new, _index(new, beside, workers), strict=True):
            known[path] = shard, row
            added.setdefault(shard.shelf, {})[split(path)[1]] = row
    finally:
        for shelf, rows in added.items():
            shelf.add(rows)
    return [known[path] for path in paths]


def _known(paths: Sequence[str], beside: bool, check: bool) -> dict[str, tuple[Shard, Row]]:
    folders: dict[str, list[str]] = {}
    for path in paths:
        folders.setdefault(split(path)[0], []).append(path)
    known: dict[str, tuple[Shard, Row]] = {}
    for shards, own in folders.items():
        for shelf in (Shelf.beside(shards), *([] if beside else [Shelf.cached(shards)])):
            rows = shelf.rows()
            held = [path for path in own if path not in known and split(path)[1] in rows]
            for path, now in zip(held, _facts(held, check), strict=True):
                row = rows[split(path)[1]]
                if now in (None, row.facts):
                    known[path] = Shard(path, row.facts, shelf), row
    return known


def _facts(paths: Sequence[str], check: bool) -> Iterator[Facts | None]:
    """What is to be compared with the manifest; None: nothing yet."""
    if not check and any(map(remote, paths)):  # of one folder
        yield from [None] * len(paths)
    elif any(map(remote, paths)):
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(facts, paths)
    else:
        yield from map(facts, paths)


def _index(paths: Sequence[str], beside: bool, workers: int) -> Iterator[tuple[Shard, Row]]:
    """Reads the shards side by side; gives them in order."""
    if not paths:
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers else ThreadPoolExecutor(THREADS)
    with pool:
        try:
            found = pool.map(_one, paths, [beside] * len(paths))
            bar = Console(stderr=True)
            yield from track(found, "indexing shards", len(paths), console=bar, disable=len(paths) <= FEW)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _one(path: str, beside: bool) -> tuple[Shard, Row]:
    shards = split(path)[0]
    shelf = Shelf.beside(shards) if beside else Shelf.cached(shards)
    row = shelf.table(path, facts(path)).row
    return Shard(path, row.facts, shelf), row
