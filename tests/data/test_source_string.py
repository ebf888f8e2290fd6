"""A source has a name on the command line; errors are one sentence."""

from typing import Any

import pytest

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.source_string import KINDS, parse_source
from jaxrep.data.sources.array_record import ArrayRecords
from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.sources.image_folder import ImageFolder
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.sources.patterns import files
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.sources.text_lines import TextLines
from jaxrep.data.sources.tfds import Tfds
from jaxrep.errors import UsageError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("tar:gs://b/{00..11}.tar", TarShards(shards="gs://b/{00..11}.tar")),
        ("{a,b}-*.tar", TarShards(shards="{a,b}-*.tar")),
        ("tar:x.tar,text=,image=jpg+png", TarShards(shards="x.tar", text="", image=("jpg", "png"))),
        ("tar:x.tar,image=,image_size=32", TarShards(shards="x.tar", image=(), image_size=32)),
        ("parquet:t", ParquetTable(files="t")),
        ("s3://b/t.parquet,text=caption", ParquetTable(files="s3://b/t.parquet", text="caption")),
        ("a-*.array_record", ArrayRecords(shards="a-*.array_record")),
        ("arrayrecord:a-*", ArrayRecords(shards="a-*")),
        ("tfds:coco_captions/2014:1.1.0/train[:10%]", Tfds(name="coco_captions/2014:1.1.0", split="train[:10%]")),
        ("csv:a.txt,separator=;", Csv(path="a.txt", separator=";")),
        ("a.tsv", Csv(path="a.tsv", separator="\t")),
        ("names.txt", TextLines(path="names.txt")),
        ("folder:p,labels_from_folders=false", ImageFolder(path="p", labels_from_folders=False)),
        ("https://host/p/", ImageFolder(path="https://host/p/")),
        ("openmoji", OpenMoji()),
        ("openmoji:test,languages=en+de", OpenMoji(part="test", languages=("en", "de"))),
    ],
)
def test_parse_source(text, source):
    assert parse_source(text) == source


def test_parse_folder_and_defaults(tmp_path):
    defaults = {"image_size": 8, "labels_from_folders": False, "text": "caption"}
    assert parse_source(str(tmp_path), defaults) == ImageFolder(
        path=str(tmp_path), image_size=8, labels_from_folders=False
    )
    assert parse_source("x.tar,text=txt", defaults) == TarShards(shards="x.tar", text="txt", image_size=8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tra:x.tar", r"no source of kind 'tra'; did you mean tar\?"),
        ("nowhere", r"neither a folder nor a file that ends in .tar, .*: name what it is, as tar:PATTERN"),
        ("x.tar,txt=caption", r"TarShards has no field 'txt'; did you mean text\?"),
        ("x.tar,image_size=big", r"image_size: expected int, got str 'big'"),
        ("openmoji:dev", r"part: expected Literal"),
        ("tfds:mnist", r"as tfds:mnist/train"),
        ("csv:a.csv,image=,text=", r"an example is empty"),
    ],
)
def test_parse_errors(text, message):
    with pytest.raises(UsageError, match=message):
        parse_source(text)


def test_text_lines(tmp_path):
    (tmp_path / "a.txt").write_text("a cat\n\na dog\n")
    examples = parse_source(f"{tmp_path}/a.txt").open()
    assert examples.column("text") == ["a cat", "", "a dog"] and examples[2]["key"] == "a dog"


@pytest.mark.parametrize("text", ["", "tar:", "csv:", "folder:", "lines:", "parquet:", "arrayrecord:", "csv:,text=a"])
def test_place_is_required(text):
    with pytest.raises(UsageError, match=r"does not say where the data are; a source is tar:PATTERN, "):
        parse_source(text)


@pytest.mark.parametrize(
    "text",
    [
        "~no-such-user/x.tar",
        "tar:a\0b.tar",
        "folder:\0",
        "lines:~no-such-user",
        "lines:/dev/zero",
        "csv:/dev/zero",
        "\udce9.tar",
        "tar:{0..1",
        "x" * 9999,
    ],
)
def test_odd_places_are_refused_in_one_sentence(text):
    with pytest.raises(UsageError) as raised:
        parse_source(text).open()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a,b=c/x.tar", TarShards),
        ("a,b=c.tar", TarShards),
        ("a,image_size=4,b=c/x.parquet", ParquetTable),
        ("2024-06-01T10:30/x.tar", TarShards),
        ("runs:3/x.csv", Csv),
        ("a:b.txt", TextLines),
        ("tar:x.csv", Csv),
        ("folder:30/t,u=v/x.tar", TarShards),
        ("a[1] {2}.tar", TarShards),
    ],
)
def test_names_of_files_may_look_like_kinds_and_fields(path, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    place: Any = {TarShards: "shards", ParquetTable: "files"}.get(kind, "path")
    assert parse_source(path) == kind(**{place: path})
    assert parse_source(f"{path},image_size=32") == kind(**{place: path}, image_size=32)
    name = next(name for name, (cls, *_) in KINDS.items() if cls is kind)
    assert parse_source(f"{name}:{file},image_size=32") == kind(**{place: str(file)}, image_size=32)
    pattern = str(file.with_stem("*")) if "/" in path else str(file)
    assert parse_source(f"{name}:{pattern},image_size=32") == kind(**{place: pattern}, image_size=32)
    assert files(pattern) == [str(file)]


def test_folder_may_look_like_a_field(tmp_path):
    (tmp_path / "a,b=c").mkdir()
    assert parse_source(f"{tmp_path}/a,b=c,image_size=8") == ImageFolder(path=f"{tmp_path}/a,b=c", image_size=8)
    assert parse_source(f"folder:{tmp_path}/a,b=c") == ImageFolder(path=f"{tmp_path}/a,b=c")
