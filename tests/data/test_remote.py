"""Data behind a URL equal data on a disk, with few requests, retries, and a bounded cache."""

import contextlib
import os
import resource
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from jaxrep import cli, storage
from jaxrep.data import local_copy as copies
from jaxrep.data.local_copy import local_copy
from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.sources.image_folder import ImageFolder
from jaxrep.data.sources.tar.manifest import index_shards
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import BadShard, UsageError
from tests.helpers.tars import pairs, write

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def remote(shards, tmp_path, monkeypatch):
    """Put the three shards behind URLs, and count reads."""
    files = fsspec.filesystem("memory")
    root = f"memory://{tmp_path.name}"
    for path in tmp_path.glob("*.tar"):
        files.pipe(f"{root}/{path.name}", path.read_bytes())
    reads = []
    cat = type(files).cat_file
    monkeypatch.setattr(
        type(files), "cat_file", lambda self, *args, **kwargs: reads.append(args) or cat(self, *args, **kwargs)
    )
    yield TarShards(shards=f"{root}/{{0..2}}.tar", image_size=4), reads, files, root
    files.rm(root, recursive=True)


def test_remote_shards_equal_local_shards(shards, remote):
    source, reads, *_ = remote
    local, far = shards.open(), source.open()
    tars = [read for read in reads if read[0].endswith(".tar")]
    assert len(tars) <= 6  # two large reads a shard, the second of what follows its last member
    assert far.column("key") == local.column("key") and far.column("text") == local.column("text")
    assert far.column("image_id").tolist() == local.column("image_id").tolist()
    reads.clear()
    source.open()
    assert not [read for read in reads if read[0].endswith(".tar")]


def test_changed_remote_shard_is_an_error_when_read(remote):
    source, _, files, root = remote
    source.open()
    files.pipe(f"{root}/1.tar", b"x")
    examples = source.open()  # no store is asked for each of its shards
    assert examples[0]["text"] == "number 0"
    with pytest.raises(BadShard, match=r"1.tar has changed since it was indexed"):
        examples[5]


def test_a_remote_shard_that_changed_is_read_after_the_command_that_is_advised(remote, tmp_path):
    source, _, files, root = remote
    source.open()
    files.pipe(f"{root}/1.tar", write(tmp_path / "new.tar", pairs([7])).read_bytes())
    with pytest.raises(BadShard, match=r"1.tar has changed .*: run jaxrep data index on it, and start again"):
        source.open()[5]
    assert cli.run(["data", "index", source.shards]) == 0
    assert source.open().column("text")[4:6] == ["number 4", "number 7"]


def test_an_index_that_was_copied_with_its_shards_is_made_again(shards, remote, tmp_path, monkeypatch):
    """A copy in a bucket has another time stamp than the local shard that was indexed."""
    source, _, files, root = remote
    index_shards([f"{tmp_path}/{n}.tar" for n in range(3)], beside=True)
    for path in (tmp_path / ".jaxrep-index").iterdir():
        files.pipe(f"{root}/.jaxrep-index/{path.name}", path.read_bytes())
    assert source.open().column("text") == shards.open().column("text")
    asked = []
    info = type(files).info
    monkeypatch.setattr(type(files), "info", lambda self, path, **more: asked.append(path) or info(self, path, **more))
    source.open()
    assert len([path for path in asked if path.endswith(".tar")]) <= 2  # the first shard of each of two manifests


def test_failed_read_is_retried(remote, monkeypatch):
    source, _, files, _ = remote
    examples = source.open()
    cat, failures = type(files).cat_file, [OSError("reset"), RuntimeError("503")]
    monkeypatch.setattr(storage, "RETRY_WAITS", (0, 0))

    def flaky(self, *args, **kwargs):
        if failures:
            raise failures.pop()
        return cat(self, *args, **kwargs)

    monkeypatch.setattr(type(files), "cat_file", flaky)
    assert examples[0]["text"] == "number 0"
    failures += [RuntimeError("503")] * 3
    with pytest.raises(BadShard, match=r"0.tar cannot be read \(503\)"):
        examples[1]


def test_a_whole_file_in_place_of_a_range_is_never_taken_for_it(remote, monkeypatch):
    source, _, files, root = remote
    cat, whole = type(files).cat_file, [True]
    monkeypatch.setattr(storage, "RETRY_WAITS", (0, 0))

    def of_server_without_ranges(self, path, start=None, end=None, **options):
        return cat(self, path, **({} if whole and whole.pop() else {"start": start, "end": end}), **options)

    monkeypatch.setattr(type(files), "cat_file", of_server_without_ranges)
    examples = source.open()  # the index is read from the start of a tar on
    whole += [True]
    assert examples[1]["text"] == "number 1"
    whole += [True] * 9
    with pytest.raises(BadShard, match=r"gives the whole file where a range of it is asked for"):
        storage.read_bytes(f"{root}/1.tar", 512, 512)
    assert storage.read_bytes(f"{root}/1.tar", 0, 2**20) == storage.read_bytes(f"{root}/1.tar")


def test_a_file_of_unknown_size_is_not_empty(remote, monkeypatch):
    _, _, files, root = remote
    info = type(files).info
    monkeypatch.setattr(type(files), "info", lambda self, path: info(self, path) | {"size": None})
    with pytest.raises(BadShard, match=r"1.tar cannot be read \(the server does not tell its size"):
        storage.file_version(f"{root}/1.tar")


class Answer(Exception):
    """Stand for the error of aiohttp on an answer of a web server."""

    __module__ = "aiohttp.client_exceptions"

    def __init__(self, status):
        super().__init__(f"{status}, message=''")
        self.status = status


@pytest.mark.parametrize(
    "cause", [Answer(503), Answer(429), Answer(0), TimeoutError("slow"), ConnectionError("refused")]
)
def test_a_web_server_in_trouble_lacks_no_file(remote, monkeypatch, cause):
    _, _, files, root = remote
    info, failures = type(files).info, [cause]
    monkeypatch.setattr(storage, "RETRY_WAITS", (0, 0))

    def as_of_https(self, path, **options):
        if failures:  # its driver says of every failure that the file is missing
            raise FileNotFoundError(path) from failures.pop()
        return info(self, path, **options)

    monkeypatch.setattr(type(files), "info", as_of_https)
    assert storage.file_version(f"{root}/1.tar").size
    failures += [cause] * 3
    with pytest.raises(BadShard, match=r"1.tar cannot be read \((?!No such file)") as raised:
        storage.file_version(f"{root}/1.tar")
    assert raised.value.__cause__ is cause
    failures += [Answer(404)]
    with pytest.raises(BadShard, match=r"1.tar cannot be read \(No such file\)"):
        storage.file_version(f"{root}/1.tar")


@pytest.mark.parametrize(
    ("url", "extra"), [("s3://b/x.tar", "s3"), ("gs://b/x.tar", "gcs"), ("https://b/x.tar", "http")]
)
def test_a_missing_driver_names_its_extra(monkeypatch, url, extra):
    def missing(path):
        raise ImportError("Install it")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(UsageError, match=rf"its driver is not installed: pip install 'jaxrep\[{extra}\]'"):
        storage.file_version(url)


# Folders and tables


@pytest.fixture
def store(tmp_path):
    """Put a folder behind a URL and on the disk."""
    for level, name in enumerate(("a/x.png", "b/y.png")):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.new("RGB", (4, 4), (level, 0, 0)).save(tmp_path / "set" / name)
    (tmp_path / "set/t.csv").write_text("filepath,title,score\na/x.png,an x,3\nb/y.png,a y,\n")
    files, root = fsspec.filesystem("memory"), f"memory://{tmp_path.name}/set"
    files.put(str(tmp_path / "set"), root, recursive=True)
    yield root, str(tmp_path / "set")
    files.rm(root, recursive=True)


@pytest.mark.parametrize("make", [lambda root: ImageFolder(path=root), lambda root: Csv(path=f"{root}/t.csv")])
def test_remote_folders_and_tables_equal_local_ones(store, make):
    far, near = (make(root).open() for root in store)
    assert far.column("key") == near.column("key")
    assert far.column("image_id").tolist() == near.column("image_id").tolist()


def test_csv_metadata_columns_from_a_store(store):
    scores = Csv(path=f"{store[0]}/t.csv").open().column("score")
    assert scores[0] == 3 and scores[1] != scores[1]


# The cache of files


def test_local_copy_is_cached_and_evicts_the_oldest(cache, monkeypatch):
    files = fsspec.filesystem("memory")
    for name in "abc":
        files.pipe(f"/fetch/{name}", name.encode() * 1000)
    monkeypatch.setenv("JAXREP_CACHE_GIB", str(2500 / 2**30))
    a, b = (local_copy(f"memory://fetch/{name}") for name in "ab")
    os.utime(b, (1, 1))
    assert local_copy("memory://fetch/a") == a and Path(a).read_bytes() == b"a" * 1000
    local_copy("memory://fetch/c")
    assert os.path.exists(a) and not os.path.exists(b)
    files.pipe("/fetch/a", b"new")
    assert Path(local_copy("memory://fetch/a")).read_bytes() == b"new"
    monkeypatch.setenv("JAXREP_CACHE_GIB", str(500 / 2**30))
    with pytest.raises(UsageError, match=r"memory://fetch/b is .* GiB, and the cache holds .*: raise JAXREP_CACHE_GIB"):
        local_copy("memory://fetch/b")
    with pytest.raises(BadShard, match=r"memory://fetch/d cannot be read \(No such file"):
        local_copy("memory://fetch/d")


def test_what_another_process_copies_stays_and_its_room_is_awaited(cache, monkeypatch):
    files = fsspec.filesystem("memory")
    files.pipe("/fetch/a", b"a" * 1000)
    monkeypatch.setenv("JAXREP_CACHE_GIB", str(2500 / 2**30))
    digest = f"{7:032x}"  # of a copy that is under way, and of one whose process was killed
    parts = [cache / "files/00" / f".{n:032x}-x.tar.abc" for n in (7, 8)]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b"x" * 1000)
        os.utime(part, (1, 1))
    waits = []

    def finish(seconds):
        if seconds and len(waits) == 3:
            held.close()
        waits.append(seconds)

    with contextlib.ExitStack() as held:
        held.enter_context(copies.alone(copies._lock_name(digest), finish))
        held.callback(parts[0].rename, parts[0].with_name("copied"))
        assert Path(local_copy("memory://fetch/a", pause=finish)).read_bytes() == b"a" * 1000  # the left one made room
        assert parts[0].exists() and not parts[1].exists()
        files.pipe("/fetch/b", b"b" * 2400)
        assert Path(local_copy("memory://fetch/b", pause=finish)).read_bytes() == b"b" * 2400
    assert sum(file.stat().st_size for file in (cache / "files").glob("*/*")) == 2400
    assert sum(seconds > 0 for seconds in waits) >= 1


def test_full_cache_is_an_error(cache):
    fsspec.filesystem("memory").pipe("/full/a", b"a" * 20_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(UsageError, match=r"^the cache file .* cannot be written \(.*\): make room"):
            local_copy("memory://full/a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in (cache / "files").rglob("*") if path.is_file()]
