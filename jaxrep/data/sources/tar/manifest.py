"""Keep the indices of tar shards: a manifest per folder with the number of examples, and a sidecar per shard.

Both lie in ``.jaxrep-index`` beside the shards, or in the cache. A shard whose size or time stamp has changed is
indexed again. An interrupted indexing continues: existing sidecars are not made again.
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
from jaxrep.data.sources.tar.index import ShardIndex, ShardSummary
from jaxrep.disk_cache import cache_dir
from jaxrep.errors import BadShard
from jaxrep.storage import FileVersion, file_version, is_remote, read_bytes, write_file

BESIDE = ".jaxrep-index"
FEW = 64
"""Number of shards that are indexed without a progress bar."""
THREADS = 16
"""Concurrent requests to a store; most of their time is waiting."""


@dataclasses.dataclass(frozen=True)
class IndexFolder:
    """Read and write the indices of one folder's shards."""

    root: str

    @classmethod
    def beside(cls, shards: str) -> "IndexFolder":
        """Return the folder of indices next to the shards in the folder ``shards``."""
        return cls(f"{shards}/{BESIDE}")

    @classmethod
    def cached(cls, shards: str) -> "IndexFolder":
        """Return the folder of indices in the cache."""
        return cls(f"{cache_dir()}/tar/{hashlib.sha256(shards.encode()).hexdigest()[:32]}")

    def index(self, path: str, version: FileVersion) -> ShardIndex:
        """Read the index of a shard; make it if it is missing or of another version of the shard."""
        sidecar = f"{self.root}/{split(path)[1]}.npz"
        content = _content(sidecar)
        index = ShardIndex.load(content) if content else None
        if index is None or index.summary.version != version:
            index = tar_index.scan(path)
            write_file(sidecar, index.dump())
        return index

    def manifest(self) -> dict[str, ShardSummary]:
        """Read the manifest: the summary of each shard by its name."""
        content = _content(f"{self.root}/manifest.json")
        try:
            rows = json.loads(content) if content else {}
            return {name: ShardSummary(**row) for name, row in rows.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            print(f"{self.root}/manifest.json is damaged; making it again", file=sys.stderr)
            return {}

    def add(self, summaries: dict[str, ShardSummary]) -> None:
        """Add summaries to the manifest, beside those that other processes have written."""
        rows = {name: summary._asdict() for name, summary in {**self.manifest(), **summaries}.items()}
        write_file(f"{self.root}/manifest.json", json.dumps(rows).encode())


def _content(path: str) -> bytes | None:
    try:
        return read_bytes(path)
    except BadShard:  # it is missing or cannot be read, and is made again
        return None


def split(path: str) -> tuple[str, str]:
    """Split the path of a shard into its folder and its name."""
    folder, slash, name = path.rpartition("/")
    return folder or slash or ".", name


@dataclasses.dataclass(frozen=True)
class Shard:
    """Identify an indexed shard: its version, and the place of its index."""

    path: str
    version: FileVersion
    folder: IndexFolder

    def index(self) -> ShardIndex:
        """Read the index of the shard. Raises BadShard: the shard is missing or has changed."""
        if (now := file_version(self.path)) != self.version:
            sizes = f"then {self.version.size} bytes, now {now.size}"
            raise BadShard(f"{self.path} has changed since it was indexed ({sizes}): start again to index it again")
        return self.folder.index(self.path, self.version)


def index_shards(
    paths: Sequence[str], *, beside: bool = False, workers: int = 0, check: bool = False
) -> list[tuple[Shard, ShardSummary]]:
    """Return every shard with its summary; read shards that no manifest has, or has in another version.

    ``beside``: write the index beside the shards. ``workers``: processes that read; 0: threads of this process.
    ``check``: compare remote shards with the manifest now, instead of when their indices are read. Raises UsageError:
    an index cannot be written, or a shard is compressed; BadShard: a shard cannot be read.
    """
    known = _known(paths, beside, check)
    new = [path for path in paths if path not in known]
    added: dict[IndexFolder, dict[str, ShardSummary]] = {}
    try:
        for path, (shard, summary) in zip(new, _index(new, beside, workers), strict=True):
            known[path] = shard, summary
            added.setdefault(shard.folder, {})[split(path)[1]] = summary
    finally:
        for folder, summaries in added.items():
            folder.add(summaries)
    return [known[path] for path in paths]


def _known(paths: Sequence[str], beside: bool, check: bool) -> dict[str, tuple[Shard, ShardSummary]]:
    by_folder: dict[str, list[str]] = {}
    for path in paths:
        by_folder.setdefault(split(path)[0], []).append(path)
    known: dict[str, tuple[Shard, ShardSummary]] = {}
    for shards, members in by_folder.items():
        for folder in (IndexFolder.beside(shards), *([] if beside else [IndexFolder.cached(shards)])):
            manifest = folder.manifest()
            listed = [path for path in members if path not in known and split(path)[1] in manifest]
            for path, version in zip(listed, _versions(listed, check), strict=True):
                summary = manifest[split(path)[1]]
                if version in (None, summary.version):
                    known[path] = Shard(path, summary.version, folder), summary
    return known


def _versions(paths: Sequence[str], check: bool) -> Iterator[FileVersion | None]:
    """Yield the versions to compare with the manifest; None: compare later. The paths are of one folder."""
    if any(map(is_remote, paths)) and not check:
        yield from [None] * len(paths)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(file_version, paths)


def _index(paths: Sequence[str], beside: bool, workers: int) -> Iterator[tuple[Shard, ShardSummary]]:
    """Read the shards in parallel, and yield them in order."""
    if not paths:
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers else ThreadPoolExecutor(THREADS)
    with pool:
        try:
            indexed = pool.map(_index_one, paths, [beside] * len(paths))
            bar = Console(stderr=True)
            yield from track(indexed, "indexing shards", len(paths), console=bar, disable=len(paths) <= FEW)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _index_one(path: str, beside: bool) -> tuple[Shard, ShardSummary]:
    folder = (IndexFolder.beside if beside else IndexFolder.cached)(split(path)[0])
    summary = folder.index(path, file_version(path)).summary
    return Shard(path, summary.version, folder), summary
