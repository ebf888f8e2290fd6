"""Sources read from a web server by ranges, from S3 as moto emulates it, and from a small hub of Hugging Face."""

import functools
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import fsspec.config
import numpy as np
import pytest

import jaxrep
from jaxrep import storage
from jaxrep.data.loading.loader import Loader
from jaxrep.data.local_copy import local_copy
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import BadShard
from tests.helpers import data_formats as formats
from tests.helpers import img2dataset
from tests.helpers.tars import pairs, picture, write
from tests.helpers.tiny_hub import Client, Hub, Repository

pytestmark = pytest.mark.usefixtures("cache")


class Ranges(SimpleHTTPRequestHandler):
    """Serve files of a folder, with ranges; count requests and bytes."""

    protocol_version = "HTTP/1.1"
    statuses: ClassVar[list[int]] = []
    """Answers to the next requests."""

    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def do_HEAD(self):
        if self.statuses:
            self.send_error(self.statuses.pop())
        else:
            super().do_HEAD()

    def do_GET(self):
        if self.statuses:
            return self.send_error(self.statuses.pop())
        path = self.translate_path(self.path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        try:
            content = Path(path).read_bytes()
        except OSError:
            return self.send_error(404)
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        self.server.sent["requests"] += 1  # pyright: ignore[reportAttributeAccessIssue]
        self.server.sent["bytes"] += len(content)  # pyright: ignore[reportAttributeAccessIssue]
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def web(tmp_path):
    """Return the address of a folder, and the counts of requests and bytes."""
    pytest.importorskip("aiohttp", reason="https:// is read by aiohttp: pip install 'jaxrep[http]'")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranges, directory=str(tmp_path)))
    server.sent = Counter()  # pyright: ignore[reportAttributeAccessIssue]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server.sent  # pyright: ignore[reportAttributeAccessIssue]
    server.shutdown()
    thread.join()
    server.server_close()


def same(near, far):
    """Check that a loader reads the same examples from both."""
    batches = []
    for source in (near, far):
        examples = source.open()
        loader = Loader(examples, Shuffle(seed=1).indices(examples, 4), 4)
        batches.append([next(loader) for _ in range(6)])
        loader.close()
    for one, other in zip(*batches, strict=True):
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])


def test_http_tars_are_read_in_ranges(shards, web, tmp_path):
    root, sent = web
    far = TarShards(shards=f"{root}/{{0..2}}.tar", image_size=4)
    far.open()  # makes the index
    sent.clear()
    assert far.open()[9]["text"] == "number 9"
    assert 0 < sent["bytes"] < 1500 and sent["requests"] == 1  # a picture, its caption and a header, of 14 kB
    same(shards, far)


def test_an_overloaded_web_server_lacks_no_file(web, tmp_path, monkeypatch):
    root, _ = web
    write(tmp_path / "a.tar", pairs(range(3)))
    monkeypatch.setattr(storage, "RETRY_WAITS", (0, 0))
    Ranges.statuses[:] = [503, 429, 503]
    assert storage.file_version(f"{root}/a.tar").size
    Ranges.statuses[:] = [503] * 6
    with pytest.raises(BadShard, match=r"/a.tar cannot be read \(503"):
        storage.file_version(f"{root}/a.tar")
    Ranges.statuses[:] = []


def test_http_file_version_changes(web, tmp_path):
    root, _ = web
    write(tmp_path / "a.tar", pairs(range(3)))
    first = storage.file_version(f"{root}/a.tar")
    assert first == storage.file_version(f"{root}/a.tar") and first.stamp
    with pytest.raises(BadShard, match=r"/b.tar cannot be read"):
        storage.file_version(f"{root}/b.tar")


@pytest.fixture(scope="module")
def bucket():
    """Return the files of a bucket of moto's server, and its keys."""
    for module in ("s3fs", "moto.server"):
        pytest.importorskip(module, reason="needs s3fs and moto[server]")
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = next(found[0] for line in server.stderr if (found := re.search(r"http://127.0.0.1:\d+", line)))
    keys = {"key": "a", "secret": "b", "client_kwargs": {"endpoint_url": address}}
    files = fsspec.filesystem("s3", **keys)
    files.mkdir("pairs")
    yield files, keys
    server.terminate()
    server.wait()


def test_s3_shards_are_read_and_indexed_in_the_bucket(shards, bucket, tmp_path, monkeypatch):
    files, keys = bucket
    monkeypatch.setitem(fsspec.config.conf, "s3", keys)  # as AWS_ENDPOINT_URL and a profile would say
    for path in tmp_path.glob("*.tar"):
        files.put(str(path), f"pairs/{path.name}")
    far = TarShards(shards="s3://pairs/*.tar", image_size=4)
    same(shards, far)
    storage.write_file("s3://pairs/note", b"whole")
    assert storage.read_bytes("s3://pairs/note", 2, 2) == b"ol" and local_copy("s3://pairs/note")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A folder in img2dataset's layout and a table of Hugging Face's datasets, beside a hub that holds both."""
    folder = img2dataset.folder(tmp_path_factory.mktemp("dataset"))
    rows = [
        {"image": {"bytes": picture(n), "path": f"{n}.png"}, "captions": [f"a {n}", None, f"b {n}"], "score": n / 4}
        for n in range(6)
    ]
    formats.parquet(folder / "train-00000-of-00001.parquet", [*rows, {"image": None, "captions": ["c"], "score": None}])
    np.save(folder / "uids.npy", img2dataset.uid_array(3, 20))
    hub = Hub()
    hub.datasets["org/set"] = Repository()
    commit = hub.datasets["org/set"].commit({f"data/{path.name}": path.read_bytes() for path in folder.iterdir()})
    home = tmp_path_factory.mktemp("home")
    client = Client(hub, home, JAXREP_CACHE=f"{home}/cache")
    yield folder, hub, client, commit
    client.close()
    hub.close()


READ = """[
    (row["key"], row["text"], int(row["image_id"]), row["image"].tolist())
    for examples in [{}.open()] for index in range(len(examples)) for row in [examples[index]]
]""".replace("\n", "")


@pytest.mark.parametrize(
    "source",
    [
        "jaxrep.data.parse_source('ROOT/0*.tar,text=json:caption,image_size=4')",
        "jaxrep.data.parse_source('ROOT/{00000..00002}.tar,image_size=4')",
        "jaxrep.data.Take(source=jaxrep.data.parse_source('ROOT/train-*.parquet,text=captions,image_size=4'), count=6)",
        "jaxrep.data.KeepUids(source=jaxrep.data.parse_source('ROOT/0*.tar,image_size=4'), path='ROOT/uids.npy')",
    ],
)
def test_hub_datasets_are_read_by_their_own_driver(dataset, source):
    """huggingface_hub's HfFileSystem reads a hub on loopback as the local files are read, at a branch and a commit."""
    folder, _, client, commit = dataset
    expected = repr(eval(READ.format(source.replace("ROOT", str(folder))), {"jaxrep": jaxrep}))
    assert len(expected) > 100
    for address in ("hf://datasets/org/set/data", f"hf://datasets/org/set@{commit}/data"):
        assert client(READ.format(source.replace("ROOT", address))) == expected


def test_hub_datasets_are_read_in_ranges(dataset):
    _, hub, client, _ = dataset
    client("globals().update(e=jaxrep.data.parse_source('hf://datasets/org/set/data/0*.tar,image_size=4').open())")
    hub.requests.clear()
    hub.sent = 0
    assert client("e[9]['text']") == "'number 9'"
    read = [path for method, path, _ in hub.requests if "/resolve/" in path]
    assert 1 <= len(read) <= 2 and hub.sent < 5000  # of a tar of 33 kB
    assert client("e.column('similarity')[9]") == repr(np.float64(9 / 16))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("org/none/x.tar", "cannot be read (repository not found, or private and read without a token)"),
        ("org/none/*.tar", "cannot be listed (repository not found, or private and read without a token)"),
        ("org/set@dev/data/00000.tar", "cannot be read (revision not found, or private and read without a token)"),
        ("org/set/data/none.tar", "cannot be read (No such file)"),
    ],
)
def test_missing_hub_datasets_are_one_sentence(dataset, address, message):
    assert client_error(dataset, address) == message


def client_error(dataset, address):
    """Return what an address's error says behind its URL."""
    url = f"hf://datasets/{address}"
    answer = dataset[2](f"jaxrep.data.parse_source('{url}').open()")
    assert url in answer and len(answer.splitlines()) == 1
    return answer.partition(f"{url} ")[2]


class Guarded(SimpleHTTPRequestHandler):
    """Serve one text to whoever shows a token."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        known = self.headers["Authorization"] == "Bearer sesame"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b"pairs" if known else b"")


def test_variables_of_fsspec_hold_the_token_that_a_recipe_must_not():
    """``FSSPEC_HTTPS`` has the settings of https:// as JSON, ``FSSPEC_HTTP`` those of http://."""
    pytest.importorskip("aiohttp", reason="https:// is read by aiohttp: pip install 'jaxrep[http]'")
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.txt"
        code = f"from jaxrep.storage import read_bytes; print(read_bytes({url!r}).decode())"
        settings = json.dumps({"client_kwargs": {"headers": {"Authorization": "Bearer sesame"}}})
        for given, status in (({"FSSPEC_HTTP": settings}, 0), ({}, 1)):
            env = {**os.environ, **given}
            assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).returncode == status
        server.shutdown()
