"""A source has a name on the command line; errors are one sentence."""

import pytest

from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.array_record import ArrayRecords
from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.sources.image_folder import ImageFolder
from jaxrep.data.sources.parquet import ParquetTable
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
