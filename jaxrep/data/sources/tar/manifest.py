"""Keep the indices of tar shards: a manifest per folder with the number of examples, and a sidecar per shard.

Both lie in ``.jaxrep-index`` beside the shards, or in the cache. A shard whose size or time stamp has changed is
indexed again. An interrupted indexing continues: existing sidecars are not made again.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import posixpath
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import typeguard
from rich.console import Console
from rich.progress import track

from jaxrep.data._util.parallel import process_pool
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

    def index(self, path: str, version: FileVersion) -> ShardIndex:
        """Read the index of a shard; make it if it is missing or of another version of the shard."""
        sidecar = f"{self.root}/{posixpath.basename(path)}.npz"
        index = ShardIndex.load(_content(sidecar))
        if index is None or index.summary.version != version:
            index = tar_index.scan(path)
            write_file(sidecar, index.dump())
        return index

    def manifest(self) -> dict[str, ShardSummary]:
        """Read the manifest: the summary of each shard by its name."""
        try:
            rows = json.loads(_content(f"{self.root}/manifest.json") or b"{}")
            summaries = {name: ShardSummary.of(row) for name, row in rows.items()}
        except (ValueError, TypeError, AttributeError, typeguard.TypeCheckError):
            print(f"{self.root}/manifest.json is damaged; making it again", file=sys.stderr)
            return {}
        return {name: summary for name, summary in summaries.items() if summary.format == tar_index.FORMAT}

    def add(self, summaries: dict[str, ShardSummary]) -> None:
        """Add summaries to the manifest, beside those that other processes have written."""
        rows = {name: summary._asdict() for name, summary in {**self.manifest(), **summaries}.items()}
        write_file(f"{self.root}/manifest.json", json.dumps(rows).encode())


def endings_of(shards: Sequence["Shard"]) -> set[str]:
    """Return the endings of the members of all shards."""
    return {ending for shard in shards for kind in shard.summary.kinds for ending in kind.split("/")}


def index_folders(shards: str) -> list[IndexFolder]:
    """Return the folders of the indices of shards in a folder: beside them, and in the cache."""
    digest = hashlib.sha256(shards.encode(errors="surrogateescape")).hexdigest()[:32]
    return [IndexFolder(f"{shards}/{BESIDE}"), IndexFolder(f"{cache_dir()}/tar/{digest}")]


def _content(path: str) -> bytes:
    with contextlib.suppress(BadShard):  # it is missing or cannot be read, and is made again
        return read_bytes(path)
    return b""


@dataclasses.dataclass(frozen=True)
class Shard:
    """Identify an indexed shard: its summary, and the place of its index."""

    path: str
    summary: ShardSummary
    folder: IndexFolder

    def index(self) -> ShardIndex:
        """Read the index of the shard. Raises BadShard: the shard is missing or has changed."""
        if (now := file_version(self.path)) != self.summary.version:
            sizes = f"then {self.summary.size} bytes, now {now.size}"
            what = sizes if self.summary.size != now.size else "its time stamp is another one"
            advice = "run jaxrep data index on it, and start again" if is_remote(self.path) else ""
            advice = advice or "start again to index it again"
            raise BadShard(f"{self.path} has changed since it was indexed ({what}): {advice}")
        return self.folder.index(self.path, now)

    def is_current(self) -> bool:
        """Return whether the shard is the one that was indexed."""
        return file_version(self.path) == self.summary.version


def index_shards(paths: Sequence[str], *, beside: bool = False, workers: int = 0, check: bool = False) -> list[Shard]:
    """Return the shards at ``paths``; read those that no manifest has, or has in another version.

    ``beside``: write the index beside the shards. ``workers``: processes that read; 0: threads of this process.
    ``check``: compare remote shards with the manifest now, instead of when their indices are read. Raises UsageError:
    an index cannot be written, or a shard is compressed; BadShard: a shard cannot be read.
    """
    known = _known(paths, beside, check)
    added: dict[IndexFolder, dict[str, ShardSummary]] = {}
    try:
        for shard in _index([path for path in paths if path not in known], beside, workers):
            known[shard.path] = shard
            added.setdefault(shard.folder, {})[posixpath.basename(shard.path)] = shard.summary
    finally:
        for folder, summaries in added.items():
            folder.add(summaries)
    return [known[path] for path in paths]


def _folder(path: str) -> str:
    return posixpath.dirname(path) or "."


def _known(paths: Sequence[str], beside: bool, check: bool) -> dict[str, Shard]:
    """Return the shards that a manifest has as they are; a remote one is taken from a manifest whose first one is."""
    known: dict[str, Shard] = {}
    for shards, group in itertools.groupby(sorted(paths, key=_folder), _folder):
        by_name = {posixpath.basename(path): path for path in group}
        trusted: list[list[Shard]] = []
        asked: list[list[Shard]] = []
        for folder in index_folders(shards)[: 1 if beside else 2]:
            manifest = folder.manifest()
            listed = [Shard(path, manifest[name], folder) for name, path in by_name.items() if name in manifest]
            (trusted if is_remote(shards) and not check and _is_first_current(listed) else asked).append(listed)
        sure, disputed = _agreed(trusted)
        known |= sure
        for listed in [disputed, *asked]:
            open_ = [shard for shard in listed if shard.path not in known]
            with ThreadPoolExecutor(THREADS) as pool:
                current = zip(open_, pool.map(Shard.is_current, open_), strict=True)
                known |= {shard.path: shard for shard, same in current if same}
    return known


def _is_first_current(listed: Sequence[Shard]) -> bool:
    """Return whether a manifest is of remote shards as they lie there; that of copies has other time stamps."""
    try:
        return not listed or listed[0].is_current()
    except BadShard:  # which whoever reads it meets
        return True


def _agreed(manifests: Sequence[Sequence[Shard]]) -> tuple[dict[str, Shard], list[Shard]]:
    """Return the shards of which no two manifests have different versions, and those of which they have."""
    found: dict[str, dict[FileVersion, Shard]] = {}
    for shard in itertools.chain(*manifests):
        found.setdefault(shard.path, {}).setdefault(shard.summary.version, shard)
    agreed = {path: next(iter(versions.values())) for path, versions in found.items() if len(versions) == 1}
    return agreed, [shard for path, versions in found.items() if path not in agreed for shard in versions.values()]


def _index(paths: Sequence[str], beside: bool, workers: int) -> Iterator[Shard]:
    """Read the shards in parallel, and yield them in order."""
    if not paths:
        return
    pool = process_pool(workers) if workers else ThreadPoolExecutor(THREADS)
    with pool:
        try:
            indexed = pool.map(_index_one, paths, itertools.repeat(beside))
            bar = Console(stderr=True)
            yield from track(indexed, "indexing shards", len(paths), console=bar, disable=len(paths) <= FEW)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _index_one(path: str, beside: bool) -> Shard:
    folder = index_folders(_folder(path))[0 if beside else 1]
    return Shard(path, folder.index(path, file_version(path)).summary, folder)
