"""Sources read from a web server by ranges, and from S3 as moto emulates it."""

import functools
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import fsspec.config
import numpy as np
import pytest

from jaxrep import storage
from jaxrep.data.loading.loader import Loader
from jaxrep.data.local_copy import local_copy
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import BadShard
from tests.helpers.tars import pairs, write

pytestmark = pytest.mark.usefixtures("cache")


class Ranges(SimpleHTTPRequestHandler):
    """Serve files of a folder, with ranges; count requests and bytes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def do_GET(self):
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
    assert 0 < sent["bytes"] < 1000 and sent["requests"] == 2  # a picture and its caption, of 14 kB
    same(shards, far)


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
