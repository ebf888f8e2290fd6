"""Whatever one example does, it is a bad sample of bounded words, and the others are read."""

import base64
import os
import zlib
from typing import Any

import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.data.bad_samples import BadSampleReport, reason_kind
from jaxrep.data.loading.loader import Loader
from jaxrep.data.loading.readable import read_blocks
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.source import Columns, Examples, Source
from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.sources.image_folder import ImageFolder
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.sources.patterns import PROTOCOLS
from jaxrep.data.transforms.base import TransformedExamples
from jaxrep.data.transforms.regions import ParseRegions
from jaxrep.errors import MAX_WORDS, BadSample, BadShard, UsageError, as_bad_sample
from jaxrep.spec import spec
from tests.helpers import data_formats as formats
from tests.helpers.tars import picture

ERRORS = (MemoryError(), RecursionError("too deep"), zlib.error("invalid"), OverflowError("2**62"), KeyError("x"))


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_any_error_is_a_bad_sample_of_its_example(error):
    class Broken(Examples):
        def __len__(self):
            return 40

        def __getitem__(self, index):
            if index == 3:
                raise error
            return {"index": np.int64(index)}

    examples = Broken()
    loader = Loader(examples, Shuffle(seed=1).indices(examples, 8), 8, max_bad_fraction=1.0)
    rows = np.concatenate([next(loader)["index"] for _ in range(5)])
    loader.close()
    assert 3 not in rows and loader.bad_samples.bad_rows == 1
    assert loader.bad_samples.examples[0].startswith(f"example 3: it cannot be read ({type(error).__name__}")
    np.testing.assert_array_equal(
        np.concatenate([b["index"] for b in read_blocks(examples, 8)]), np.delete(range(40), 3)
    )


@pytest.mark.parametrize(
    "error", [BadShard("0.tar does not answer"), UsageError("no such column"), KeyboardInterrupt()]
)
def test_errors_of_more_than_one_example_pass(error):
    with pytest.raises(type(error)), as_bad_sample("here"):
        raise error


def test_words_are_bounded():
    for size in (0, MAX_WORDS, MAX_WORDS + 1, 10**6):
        error = BadSample("p" * size, "r" * size)
        assert len(error.place) == len(error.reason) == min(size, MAX_WORDS) or len(error.reason) < MAX_WORDS < size
    report = sum(
        (BadSampleReport(1, {("0.tar", reason_kind(error.reason)): 1}, (str(error),)) for _ in range(200)),
        BadSampleReport(),
    )
    assert len(report.to_array()) < 100_000


# Values and paths in tables


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": None}, "record 1, 'text': it is null"),
        ({"text": [None]}, "record 1, 'text': it is null"),
        ({"text": float("nan")}, "record 1, 'text': it is null"),
        ({"image": None}, "record 1, 'image': it is null"),
        ({"image": {"bytes": None, "path": None}}, "record 1, 'image': it is null"),
        ({"image": base64.b64encode(bytes(30_000)).decode()}, "it is a text of 40,000 characters, and neither bytes"),
        ({"image": base64.b64encode(bytes(600)).decode()}, "the file cannot be read"),
        ({"image": "a\0b.png"}, "the file cannot be read"),
    ],
)
def test_odd_value_is_a_bad_sample(tmp_path, row, message):
    (name,) = row
    good = {"text": "a", "image": picture(1)}[name]
    if name == "image" and row[name] is not None:
        good = {"bytes": good, "path": None} if isinstance(row[name], dict) else "0.png"
    if isinstance(row[name], list | float):
        good = [good] if isinstance(row[name], list) else 1.5
    (tmp_path / "0.png").write_bytes(picture(1))
    formats.parquet(tmp_path / "x.parquet", [{name: good}, row])
    others: Any = {"image": "", "text": ""} | {name: name}
    examples = ParquetTable(files=f"{tmp_path}/x.parquet", **others, image_size=4).open()
    assert examples[0]
    with pytest.raises(BadSample, match=message) as raised:
        examples[1]
    assert len(str(raised.value)) < 2 * MAX_WORDS + 3


def _table(folder, *paths):
    (folder / "0.png").write_bytes(picture(1))
    (folder / "t.csv").write_text("filepath\n0.png\n" + "".join(f"{path}\n" for path in paths))
    return Csv(path=f"{folder}/t.csv", text="", image_size=4).open()


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(20 * 2**30)
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    names = ("/dev/zero", "pipe.png", "device.png", "sparse.png", "folder.png", "/dev/stdin")
    messages = ("no regular file",) * 3 + (
        "more than 134,217,728 bytes",
        "Is a directory|no regular file",
        "cannot be read",
    )
    examples = _table(tmp_path, *names)
    assert examples[0]["image"].shape == (4, 4, 3)
    for index, message in enumerate(messages, 1):
        with pytest.raises(BadSample, match=message):
            examples[index]
    (tmp_path / "folder.png").rmdir()
    folder = ImageFolder(path=str(tmp_path), labels_from_folders=False, image_size=4).open()
    for name, message in (
        ("pipe.png", "no regular file"),
        ("device.png", "no regular file"),
        ("sparse.png", "more than"),
    ):
        with pytest.raises(BadSample, match=message):
            folder[folder.column("key").index(name)]


def test_data_name_known_protocols_without_chains(tmp_path, memory):
    memory.pipe("/odd/x.png", picture(2))
    memory.pipe("/odd/evil.json", b"{}")
    allowed = "memory://odd/x.png"
    refused = (
        "reference://memory://odd/evil.json",
        "reference://::memory://odd/evil.json",
        "memory://odd/x.png::memory://odd/x.png",
        "filecache::memory://odd/x.png",
        "file:///dev/zero",
        "zip://x.png::memory://odd/x.zip",
        "github://a:b@c/x.png",
    )
    examples = _table(tmp_path, allowed, *refused)
    assert examples[1]["image"][0, 0, 0] == 2
    for index in range(2, 2 + len(refused)):
        with pytest.raises(BadSample, match=rf"data may name a path, or a URL of {PROTOCOLS[0]}, "):
            examples[index]
    memory.pipe("/odd/t.csv", b"filepath\nx.png\ny::reference://memory://odd/evil.json\n")
    remote = Csv(path="memory://odd/t.csv", text="", image_size=4).open()
    assert remote[0]["image"][0, 0, 0] == 2
    with pytest.raises(BadSample, match="data may name"):
        remote[1]


def test_url_without_its_driver_is_a_bad_sample(tmp_path, monkeypatch):
    def missing(path):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    examples = _table(tmp_path, "s3://bucket/a.png", "0.png")
    assert [len(b["image"]) for b in read_blocks(examples, 3)] == [2]
    with pytest.raises(BadSample, match=r"line 3, .*s3://bucket/a.png cannot be reached: its driver .*jaxrep.s3"):
        examples[1]


# Transforms


@spec
class Texts(Source):
    def fields(self):
        return {"regions": Field((), "str"), "index": Field((), "int32")}

    def open(self):
        texts = ["0.5 0.5 1 1 a cat"] * 20
        texts[3], texts[8] = "0.5 0.5 1 a cat", "2 0.5 1 1 a dog"
        return Columns({"regions": texts, "index": np.arange(20, dtype=np.int32)})


def test_line_that_a_transform_cannot_parse_is_a_bad_sample():
    source = ParseRegions(source=Texts(), count=2)
    examples = source.open()
    assert isinstance(examples, TransformedExamples)
    rows = []
    for size in (2, 5, 10):
        loader = Loader(examples, Shuffle(seed=1).indices(examples, size), size, max_bad_fraction=1.0, threads=0)
        rows.append(np.concatenate([next(loader)["index"] for _ in range(20 // size)]))
        loader.close()
        assert loader.bad_samples.bad_rows == 2 and not {3, 8} & set(rows[-1])
        assert any("example 3: a region is a line 'x y width height" in line for line in loader.bad_samples.examples)
    np.testing.assert_array_equal(rows[0], rows[1])  # a substitute depends on its place alone
    np.testing.assert_array_equal(rows[0], rows[2])
    with pytest.raises(BadSample, match="example 3: a region is a line"):
        examples.gather(np.arange(6))
