"""ArrayRecord files, Parquet tables and TFDS data sets give the same examples as the tars with the same content."""

import pickle
import sys

import fsspec
import numpy as np
import pytest

from jaxrep.data.source_string import parse_source
from jaxrep.data.sources import array_record, tf_example
from jaxrep.data.sources.array_record import ArrayRecords
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.sources.tfds import Tfds
from jaxrep.errors import BadSample, BadShard, UsageError
from jaxrep.spec import problems
from tests.helpers import data_formats as formats
from tests.helpers.tars import pairs, picture, write

SIZE = 4


pytestmark = pytest.mark.usefixtures("cache")


def _rows(numbers):
    return [{"image": picture(n), "text": f"number {n}", "score": n / 4, "tag": f"t{n}"} for n in numbers]


FORMATS = {
    "arrayrecord": (formats.array_record, lambda pattern: ArrayRecords(shards=pattern, image_size=SIZE)),
    "parquet": (formats.parquet, lambda pattern: ParquetTable(files=pattern, image_size=SIZE)),
}


@pytest.fixture(params=FORMATS)
def made(request, tmp_path):
    """Two files of five and three records, and the source of a pattern."""
    save, source = FORMATS[request.param]
    save(tmp_path / "0.x", _rows(range(5)))
    save(tmp_path / "1.x", _rows(range(5, 8)))
    return save, source, tmp_path


def test_records_equal_examples_of_tars(made):
    _, source, folder = made
    write(folder / "x.tar", pairs(range(8)))
    expected = TarShards(shards=f"{folder}/x.tar", image_size=SIZE).open()
    examples = source(f"{folder}/*.x").open()
    assert len(examples) == 8 and examples.shard_ends.tolist() == [5, 8]
    for index in (7, 0, 4, 5, 2):
        actual, wanted = examples[index], expected[index]
        for name in ("image", "image_id", "text"):
            np.testing.assert_array_equal(actual[name], wanted[name])
    assert examples.column("key")[4:6] == ["0.x/4", "1.x/0"] and examples.shard(5) == f"{folder}/1.x"


def test_other_values_are_metadata_columns(made):
    _, source, folder = made
    examples = source(f"{folder}/{{0,1}}.x").open()
    np.testing.assert_array_equal(examples.column("score"), np.arange(8) / 4)
    assert examples.column("tag")[-1] == "t7" and examples.metadata(3) == {"score": 0.75, "tag": "t3"}
    with pytest.raises(UsageError, match=r"no column 'scor'; did you mean score\?"):
        examples.column("scor")


def test_remote_files_are_read(made):
    _, source, folder = made
    files, root = fsspec.filesystem("memory"), f"memory://{folder.name}"
    for name in ("0.x", "1.x"):
        files.put(str(folder / name), f"{root}/{name}")
    examples = source(f"{root}/{{0..1}}.x").open()
    assert examples.column("text") == [f"number {n}" for n in range(8)]
    files.rm(root, recursive=True)
    with pytest.raises(BadShard, match=r"cannot be read \(No such file"):
        pickle.loads(pickle.dumps(examples))[0]


def test_file_of_another_format_is_reported(made):
    save, source, folder = made
    for content in (b"", b"no such file format" * 100):
        (folder / "2.x").write_bytes(content)
        with pytest.raises(BadShard, match=r"2.x is no (ArrayRecord|Parquet) file"):
            source(f"{folder}/*.x").open()
    whole = (folder / "1.x").read_bytes()
    (folder / "2.x").write_bytes(whole[: len(whole) // 2])  # as a copy that was interrupted
    with pytest.raises(BadShard, match=r"2.x is no (ArrayRecord|Parquet) file"):
        source(f"{folder}/*.x").open()
    save(folder / "3.x", [])
    with pytest.raises(UsageError, match=r"(has no record|has no column)"):
        source(f"{folder}/3.x").open()


def test_unreadable_images_are_bad_samples(made):
    save, source, folder = made
    save(folder / "2.x", [{"image": b"", "text": "a"}, {"image": b"no picture", "text": "b"}])
    examples = source(f"{folder}/2.x").open()
    with pytest.raises(BadSample, match=r"2.x, record 0, 'image': the image is empty"):
        examples[0]
    with pytest.raises(BadSample, match=r"2.x, record 1, 'image': the image cannot be decoded"):
        examples[1]


def test_other_messages_are_bad_samples(tmp_path):
    formats.array_record(tmp_path / "x", [b"\xff\xff\xff", tf_example.encode({"image": picture(1)})])
    examples = ArrayRecords(shards=f"{tmp_path}/x").open()
    with pytest.raises(BadSample, match=r"x, record 0: it cannot be read .the record is no tf.train.Example"):
        examples[0]
    with pytest.raises(BadSample, match=r"x, record 1, 'text': it has no 'text'; there are: image"):
        examples[1]


def test_records_are_counted_once(tmp_path, monkeypatch):
    formats.array_record(tmp_path / "x", _rows(range(3)))
    assert array_record.count_records(f"{tmp_path}/x") == 3
    monkeypatch.setattr(array_record, "open_reader", lambda path: pytest.fail("opened again"))
    assert array_record.count_records(f"{tmp_path}/x") == 3


def test_images_may_be_paths_or_structures(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(3))
    rows = [{"image": {"bytes": None, "path": "a.png"}}, {"image": {"bytes": picture(4), "path": "b.png"}}]
    formats.parquet(tmp_path / "hf.parquet", rows)
    formats.parquet(tmp_path / "paths.parquet", [{"image": "a.png"}, {"image": "none.png"}, {"image": None}])
    actual = ParquetTable(files=f"{tmp_path}/hf.parquet", text="", image_size=SIZE).open().column("image")
    assert actual[:, 0, 0, 0].tolist() == [3, 4]
    examples = ParquetTable(files=f"{tmp_path}/paths.parquet", text="", image_size=SIZE).open()
    assert examples[0]["image"][0, 0, 0] == 3
    for index, message in ((1, r"none.png cannot be read \(No such file"), (2, "record 2, 'image': it is null")):
        with pytest.raises(BadSample, match=message):
            examples[index]


def test_lists_of_captions_and_nulls(tmp_path):
    """As Hugging Face's datasets writes them: structures of images, lists of captions, and nulls in any of them."""
    rows = [
        {"image": {"bytes": picture(1), "path": None}, "captions": ["a", "b"], "alt": "x", "label": 3},
        {"image": {"bytes": picture(2), "path": "none.png"}, "captions": ["c", None], "alt": None, "label": None},
        {"image": {"bytes": None, "path": None}, "captions": None, "alt": "z", "label": 1},
        {"image": None, "captions": [None], "alt": "z", "label": 1},
        {"image": {"bytes": picture(5), "path": None}, "captions": [], "alt": "w", "label": 2},
    ]
    formats.parquet(tmp_path / "x.parquet", rows)
    source = ParquetTable(
        files=f"{tmp_path}/x.parquet", text="captions", captions=("alt",), label="label", image_size=SIZE
    )
    examples = source.open()
    assert examples[0]["text"] == ("a", "b") and len(examples[0]["text_id"]) == 2 and examples[0]["label"] == 3
    assert examples.column("text") == [("a", "b"), ("c",), ("",), ("",), ("",)]
    assert examples.column("alt") == ["x", "", "z", "z", "w"] and examples.column("label").tolist() == [3, -1, 1, 1, 2]
    for index, message in (
        (1, "record 1, 'label': it is null"),
        (2, "record 2, 'image': it is null"),
        (3, "record 3, 'image': it is null"),
        (4, "record 4, 'captions': it is an empty list"),
    ):
        with pytest.raises(BadSample, match=message):
            examples[index]
    texts = ParquetTable(files=source.files, image="", text="captions").open()
    for index in (2, 3):
        with pytest.raises(BadSample, match=f"record {index}, 'captions': it is null"):
            texts[index]
    two = [{"image": [picture(1), picture(2)], "text": "a"}]
    formats.parquet(tmp_path / "y.parquet", two)
    with pytest.raises(BadSample, match=r"record 0, 'image': it has 2 values, and one is read"):
        ParquetTable(files=f"{tmp_path}/y.parquet").open()[0]


def test_row_group_is_read_once_for_its_rows(tmp_path, monkeypatch):
    formats.parquet(tmp_path / "x", _rows(range(6)), group=3)
    examples = ParquetTable(files=f"{tmp_path}/x", image_size=SIZE).open()
    reads, read = [], type(examples)._read_group
    monkeypatch.setattr(type(examples), "_read_group", lambda *args: reads.append(args[2]) or read(*args))
    assert [examples[index]["text"] for index in (1, 0, 2, 5, 3)] == [f"number {n}" for n in (1, 0, 2, 5, 3)]
    assert reads == [0, 1]


@pytest.mark.parametrize("module", ["pyarrow", "tensorflow_datasets"])
def test_missing_extra_is_reported(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "x").touch()
    source = ParquetTable(files=f"{tmp_path}/x") if module == "pyarrow" else Tfds(name="mnist")
    with pytest.raises(UsageError, match=r"not installed: pip install 'jaxrep\[(parquet|tfds)\]'"):
        source.open()


def test_example_messages_follow_the_wire_format():
    """By hand: Example{1: Features{1: entry{1: "a", 2: Feature{3: Int64List{1: packed [300]}}}}}, and so on."""
    number = bytes.fromhex("0a0f 0a0d 0a0161 1208 1206 0a04 0000003f".replace(" ", ""))  # Feature{2: FloatList 0.5}
    assert tf_example.encode({"a": 0.5}) == number
    numbers = bytes.fromhex("0a13 0a11 0a0161 120c 120a 0a08 0000003f 0000803f".replace(" ", ""))  # 0.5, 1
    assert tf_example.encode({"a": [0.5, 1.0]}) == numbers and tf_example.decode(numbers) == {"a": [0.5, 1.0]}
    whole = bytes.fromhex("0a0d 0a0b 0a0161 1206 1a04 0a02 ac02".replace(" ", ""))  # 300 as a varint: ac 02
    assert tf_example.encode({"a": 300}) == whole and tf_example.decode(whole) == {"a": [300]}
    text = bytes.fromhex("0a0d 0a0b 0a0162 1206 0a04 0a02 7879".replace(" ", ""))
    assert tf_example.encode({"b": "xy"}) == text and tf_example.decode(text) == {"b": [b"xy"]}


@pytest.fixture
def tiny(tmp_path):
    """The folder of a data set that TFDS prepared."""
    formats.tfds(tmp_path, _rows(range(4)))
    return str(tmp_path)


def test_tfds_is_read_without_tensorflow(tiny):
    source = Tfds(name="tiny", data_dir=tiny, text="caption", label="label", image_size=SIZE)
    examples = source.open()
    actual = [examples[index] for index in range(4)]
    numbers = [int(row["text"].removeprefix("number ")) for row in actual]  # TFDS shuffled them
    assert sorted(numbers) == [0, 1, 2, 3] and "tensorflow" not in sys.modules
    for row, number in zip(actual, numbers, strict=True):
        assert row["image"][0, 0, 0] == number and row["label"] == number % 2
    assert examples.classes == {"label": ["even", "odd"]}
    np.testing.assert_array_equal(examples.column("score"), np.array(numbers) / 4)
    assert len(Tfds(name="tiny", split="train[:50%]", data_dir=tiny, text="", image_size=SIZE).open()) == 2
    with pytest.raises(UsageError, match=r"tiny has no column 'text'"):
        Tfds(name="tiny", data_dir=tiny).open()
    with pytest.raises(UsageError, match=r"the data set tiny, split none, cannot be opened in "):
        Tfds(name="tiny", split="none", data_dir=tiny, text="caption").open()


def test_further_captions_are_fields(tmp_path):
    rows = [{"image": picture(n), "text": f"t{n}", "long": f"a long text of {n}"} for n in range(3)]
    formats.parquet(tmp_path / "x.parquet", rows)
    formats.array_record(tmp_path / "x.array_record", rows)
    write(tmp_path / "x.tar", [*pairs(range(3)), *((f"{n:04}.long", f"a long text of {n}".encode()) for n in range(3))])
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "x.csv").write_text("filepath,title,long\n" + "0.png,t,a long text of 0\n" * 3)
    for name in ("x.parquet", "x.array_record", "x.tar", "x.csv"):
        source = parse_source(f"{tmp_path}/{name},captions=long,image_size=4")
        examples = source.open()
        assert source.fields()["long"].dtype == "str" and examples[0].keys() == source.fields().keys()
        assert examples[0]["long"] == "a long text of 0" and examples[0]["long_id"] == examples.column("long_id")[0]
    assert "'text' is one already" in problems(TarShards(shards="x", captions=("text",)))[0]


def test_row_group_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    """Check that a repeated value, which a file holds once, does not fill the memory: here 2 GB in a file of 1 MB."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    table = pyarrow.table({"text": ["x" * 100_000] * 1000, "n": list(range(1000))})
    with writer.ParquetWriter(tmp_path / "x.parquet", table.schema, compression="zstd") as file:
        file.write_table(pyarrow.concat_tables([table] * 20), row_group_size=20_000)
    assert (tmp_path / "x.parquet").stat().st_size < 2**20
    monkeypatch.setattr("jaxrep.data.sources.parquet.MAX_GROUP_BYTES", 2**28)
    examples = ParquetTable(files=f"{tmp_path}/x.parquet", image="").open()
    del table
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(
        UsageError, match=r"x.parquet: row group 0 takes more than 0.25 GiB of memory, .*smaller row groups"
    ):
        examples[5]
    assert pyarrow.default_memory_pool().max_memory() < before + 2**30
    assert examples.column("n")[-1] == 999 and examples.metadata(19_999) == {"n": 999}
    assert ParquetTable(files=f"{tmp_path}/x.parquet", image="", text="n").open()[3]["text"] == "3"
