"""Columns of a tar source come from the table beside each shard; what differs between the two is counted and told."""

import json
import sys

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.subsets import Filter, Where
from jaxrep.errors import BadShard, UsageError
from tests.helpers import img2dataset
from tests.helpers.img2dataset import failed, row, shard
from tests.helpers.opened_files import opened_files
from tests.helpers.tars import write

SIZE = 4

pytestmark = pytest.mark.usefixtures("cache")


def tars(folder, **fields):
    return TarShards(shards=f"{folder}/*.tar", **{"text": "json:caption", "image_size": SIZE, **fields})


def opened_tars(opened):
    return [path for path in opened if path.endswith(".tar")]


def test_filter_by_similarity_opens_no_tar(tmp_path):
    """The same source with text in JSON, once indexed: opening and filtering read tables alone."""
    shard(tmp_path, 0, [*(row(n, 0) for n in range(8)), failed(24, 0)])
    shard(tmp_path, 1, [row(n, 1) for n in range(8, 16)])
    source = Filter(source=tars(tmp_path), where=(Where(column="similarity", at_least=0.5),))
    source.open()  # makes the index
    with opened_files() as opened:
        examples = source.open()
        assert examples.column("width").tolist() == [100 + n for n in range(8, 16)]
    assert not opened_tars(opened) and sum(path.endswith(".parquet") for path in opened) >= 4
    with opened_files() as opened:
        assert [examples[n]["text"] for n in (0, 7)] == ["number 8", "number 15"]
    assert opened_tars(opened)


def test_columns_equal_the_metadata_in_json(tmp_path, capsys):
    """The folder with a failed download and a shard without a table: values equal those of a folder without tables."""
    with_tables = tars(img2dataset.folder(tmp_path / "a")).open()
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "a").glob("*.tar"):
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes())
    without = tars(tmp_path / "b").open()
    capsys.readouterr()
    for name in ("similarity", "width", "status", "uid", "clip.similarity", "captions"):
        one, other = with_tables.column(name), without.column(name)
        assert type(one) is type(other) and len(one) == 24
        np.testing.assert_array_equal(one, other)
    told = capsys.readouterr().err
    first, second = told.splitlines()  # for `clip.similarity`, which is no column of the tables, and for all others
    for sentence in (first, second):
        assert f"shards without a table beside them: 1 (the first: {tmp_path}/a/00002.tar)" in sentence
    assert f"as of failed downloads: 1 (the first: {tmp_path}/a/00000.tar)" in first and "without this" not in first
    assert "tables without this column: 2 (the first: " in second and "values that were therefore read" in second
    with pytest.raises(UsageError, match=r"no column 'similarty'; did you mean similarity\? there are: key, image,"):
        with_tables.column("similarty")


def test_sources_without_tables_say_nothing(tmp_path, capsys):
    shard(tmp_path, 0, [row(n, 0) for n in range(3)], table=())
    assert tars(tmp_path).open().column("width").tolist() == [100, 101, 102]
    assert capsys.readouterr().err == ""


def test_parts_of_a_column_are_shards(tmp_path):
    examples = tars(img2dataset.folder(tmp_path)).open()
    assert [len(part) for part in examples.column_parts("similarity")] == [8, 8, 8]
    kept = Filter(source=tars(tmp_path), where=(Where(column="width", at_least=106, at_most=118),)).open()
    assert [part.tolist() for part in kept.column_parts("width")] == [[106, 107], [*range(108, 116)], [116, 117, 118]]


def test_a_file_that_is_no_table_may_be_removed(tmp_path):
    shard(tmp_path, 0, [row(n, 0) for n in range(3)], table=())
    (tmp_path / "00000.parquet").write_bytes(b"")
    with pytest.raises(
        BadShard, match=r"if it is no table of \S+00000.tar, remove it: the metadata in the tar are read"
    ):
        tars(tmp_path).open().column("width")
    (tmp_path / "00000.parquet").unlink()
    assert tars(tmp_path).open().column("width").tolist() == [100, 101, 102]


@pytest.mark.parametrize("table", [None, ()])
def test_words_are_no_numbers_when_a_source_opens(tmp_path, table):
    shard(tmp_path, 0, [row(n, 0) for n in range(3)], table=table)
    assert tars(tmp_path, numbers={"s": "json:similarity"}).open()[1]["s"] == np.float32(1 / 16)
    with pytest.raises(
        UsageError, match=r"s is read as numbers from \.json:status, and .*'success'.*, from \S+00000.tar"
    ):
        tars(tmp_path, numbers={"s": "json:status"}).open()


ROWS = [row(n, 0) for n in range(4)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (ROWS[:1] + ROWS[3:], "examples without a row in the table beside their shard: 2 "),
        ([*ROWS, row(9, 0, key=ROWS[2]["key"])], "examples with several rows there: 1 "),
        ([row(n, 7) for n in range(4)], "tables with other keys than their shards: 1 "),
        (
            [{name: value for name, value in each.items() if name != "key"} for each in ROWS],
            "without a column 'key': 1",
        ),
        ([{"key": each["key"]} for each in ROWS], "tables without this column: 1 "),
        ([{**each, "key": int(each["key"])} for each in ROWS], "tables with other keys than their shards: 1 "),
        ([*ROWS, {**row(0, 0), "key": None}], "rows of tables without an example, as of failed downloads: 1 "),
    ],
)
def test_differing_tables_are_told_and_change_no_value(tmp_path, capsys, table, message):
    shard(tmp_path, 0, ROWS, table=table)
    examples = tars(tmp_path).open()
    assert examples.column("similarity").tolist() == [n / 16 for n in range(4)]
    assert message in (told := capsys.readouterr().err) and "00000.tar" in told
    assert examples.column("similarity").tolist() == [n / 16 for n in range(4)]
    assert capsys.readouterr().err == ""  # told once


def test_values_of_a_table_are_columns_of_metadata(tmp_path):
    """Every type of Arrow, with nulls: numbers are float64 with NaN, others strings with "" for null."""
    keys = [each["key"] for each in ROWS]
    columns = {
        "key": pyarrow.array(keys).dictionary_encode(),
        "int": pyarrow.array([1, None, 2**60, -1], pyarrow.int64()),
        "half": pyarrow.array(np.array([0.5, np.nan, 1, 2], np.float16)),
        "flag": pyarrow.array([True, None, False, True]),
        "large": pyarrow.array(["a", None, "ü", ""], pyarrow.large_string()),
        "label": pyarrow.array(["x", "y", None, "x"]).dictionary_encode(),
        "empty": pyarrow.nulls(4),
        "list": pyarrow.array([["a"], ["a", "b"], None, []]),
    }
    shard(tmp_path, 0, ROWS)
    parquet.write_table(pyarrow.table(columns), tmp_path / "00000.parquet")
    examples = tars(tmp_path).open()
    numbers = {"int": [1, np.nan, 2**60, -1], "half": [0.5, np.nan, 1, 2], "flag": [1, np.nan, 0, 1]}
    for name, expected in {**numbers, "empty": [np.nan] * 4}.items():
        np.testing.assert_array_equal(examples.column(name), np.array(expected, np.float64))
    assert examples.column("large") == ["a", "", "ü", ""] and examples.column("label") == ["x", "y", "", "x"]
    assert examples.column("list") == ["a", "['a', 'b']", "", "[]"]


def test_columns_of_shards_may_differ_in_type(tmp_path):
    shard(tmp_path, 0, [row(0, 0, score=0.5), row(1, 0, score=2.0)])
    shard(tmp_path, 1, [row(2, 1, score="high")])
    shard(tmp_path, 2, [row(3, 2)])
    assert tars(tmp_path).open().column("score") == ["0.5", "2", "high", ""]


def test_keys_with_dots_folders_and_unicode_are_joined(tmp_path):
    keys = ["a/b/0.1", "ключ", "a/b/ä ö", "x" * 300]
    members = [(f"{key}.txt", key.encode()) for key in keys]
    write(tmp_path / "s.1.tar", members)
    parquet.write_table(pyarrow.table({"key": ["a/b/0", *keys[1:]], "n": [0, 1, 2, 3]}), tmp_path / "s.1.parquet")
    # A key ends at the first dot of its name, so that `a/b/0.1.txt` has the key `a/b/0`, and the ending `1.txt`.
    examples = TarShards(shards=f"{tmp_path}/s.1.tar", image=(), text="txt", captions=()).open()
    assert examples.column("n").tolist() == [1, 2, 3]


def test_unreadable_tables_are_one_sentence(tmp_path):
    shard(tmp_path, 0, ROWS)
    examples = tars(tmp_path).open()
    table = tmp_path / "00000.parquet"
    table.write_bytes(table.read_bytes()[:-100])
    with pytest.raises(BadShard, match=r"00000.parquet is no Parquet file that can be read"):
        examples.column("similarity")
    assert tars(tmp_path).open()[0]["text"] == "number 0"  # the tar is read
    invalid = pyarrow.table({"key": [b"\xff\xfe"], "similarity": [1.0]})
    parquet.write_table(invalid, table)
    with pytest.raises(BadShard, match=r"00000.parquet cannot be joined with its tar by 'key'"):
        examples.column("similarity")


def test_tables_need_the_extra(tmp_path, monkeypatch):
    shard(tmp_path, 0, ROWS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    examples = tars(tmp_path).open()
    assert examples[0]["text"] == "number 0"
    with pytest.raises(UsageError, match=r"needs pyarrow, which is not installed: pip install 'jaxrep\[parquet\]'"):
        examples.column("similarity")


def test_statistics_beside_shards_are_no_data(tmp_path):
    img2dataset.folder(tmp_path)
    assert json.loads((tmp_path / "00000_stats.json").read_text())["failed_to_download"] == 1
    assert len(tars(tmp_path).open()) == 24


def test_words_where_numbers_are_compared_are_refused(tmp_path):
    shard(tmp_path, 0, ROWS)
    with pytest.raises(UsageError, match=r"column 'status' holds words, as 'success', and numbers are compared"):
        Filter(source=tars(tmp_path), where=(Where(column="status", at_least=1),)).open()
