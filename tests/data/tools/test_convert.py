"""Conversion keeps every byte in any format, continues after an interruption, and counts unreadable examples."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxrep.data.source import Columns, Source
from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.csv_table import Csv
from jaxrep.data.sources.label_maps import LabelMaps
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tools import convert as module
from jaxrep.data.tools.convert import Plan, convert
from jaxrep.data.tools.writers import read_row
from jaxrep.errors import UsageError
from jaxrep.spec import spec
from tests.helpers.tars import pairs, picture, write

READ = {
    "tar": "tar:{}/*.tar,label=cls,image_size=4",
    "arrayrecord": "arrayrecord:{}/*.array_record,label=label,image_size=4",
    "parquet": "parquet:{}/*.parquet,label=label,image_size=4",
    "csv": "csv:{}/pairs.csv,label=label,image_size=4",
}


pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def source(tmp_path):
    extra = [(f"{n:04}.cls", b"%d" % (n % 3)) for n in range(7)]
    extra += [(f"{n:04}.json", json.dumps({"score": n / 8, "tag": f'"{n}", é'}).encode()) for n in range(7)]
    write(tmp_path / "x.tar", [*pairs(range(7)), *extra])
    return TarShards(shards=f"{tmp_path}/x.tar", image_size=4, label="cls")


def _plan(source, kind, folder, per_shard=3):
    return Plan(source, kind, folder, per_shard, len(source.open()))


def test_round_trip_through_all_formats(tmp_path, source):
    expected, current = source.open(), source
    for number, kind in enumerate(("parquet", "arrayrecord", "csv", "tar")):
        folder = tmp_path / f"{number}"
        actual = convert(_plan(current, kind, folder))
        assert (actual["written"], actual["bad"], actual["all"]) == (7, {}, 7)
        current = parse_source(READ[kind].format(folder))
        examples = current.open()
        assert len(examples) == 7
        for index in range(7):
            assert examples.contents(index) == expected.contents(index)
        np.testing.assert_array_equal(examples.column("score"), np.arange(7) / 8)
        assert examples.column("tag") == expected.column("tag")


@spec
class Arrays(Source):
    """Images in memory."""

    def fields(self):
        return {}

    def open(self):
        images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
        return Columns({"image": images, "text": list("abcde"), "code": list("vwxyz"), "group": np.arange(5)})


def test_source_in_memory_is_stored_without_loss(tmp_path):
    source = Arrays()
    convert(_plan(source, "tar", tmp_path / "a"))
    actual, expected = parse_source(f"{tmp_path}/a/*.tar,image_size=16").open(), source.open()
    assert sorted(path.name for path in (tmp_path / "a").glob("*.tar")) == ["00000.tar", "00001.tar"]
    np.testing.assert_array_equal(actual.column("image"), expected.column("image"))
    for name in ("text", "code"):
        assert actual.column(name) == expected.column(name)
    assert actual.column("group").tolist() == [0, 1, 2, 3, 4]


def test_arrays_in_memory_are_refused(tmp_path):
    """One value per example and column can be stored, so nothing is left out without a word."""
    regions = Columns({"text": ["a", "b"], "boxes": np.zeros((2, 3, 4), np.float32)})
    with pytest.raises(UsageError, match="an example has 12 values of 'boxes', and one is stored: leave it out"):
        read_row(regions, 0)
    views = Columns({"text": ["a"], "other": [("b", "c")]})
    with pytest.raises(UsageError, match="an example has 2 values of 'other', and one is stored"):
        read_row(views, 0)
    plain = Columns({"text": ["a"], "seen": np.ones(1, bool), "share": np.ones(1, np.float32)})
    assert read_row(plain, 0).metadata == {"seen": True, "share": 1.0}


@pytest.mark.parametrize("kind", READ)
def test_interrupted_conversion_continues(tmp_path, source, kind, monkeypatch):
    convert(_plan(source, kind, tmp_path / "whole"))
    plan, calls, save = _plan(source, kind, tmp_path / "broken"), [], module.FORMATS[kind]

    def dies(path, rows):
        calls.append(path)
        if len(calls) == 2:
            (path.mkdir() if kind == "csv" else path.write_bytes(b"half a"))
            raise KeyboardInterrupt
        save[1](path, rows)

    monkeypatch.setitem(module.FORMATS, kind, (save[0], dies))
    with pytest.raises(KeyboardInterrupt):
        convert(plan)
    assert not plan.path(1).exists()
    convert(plan)
    assert len(calls) == 4  # the first shard was not written again
    for path in (tmp_path / "whole").rglob("*.*"):
        if path.is_file() and kind != "arrayrecord" and path.name != "plan.json":
            assert (tmp_path / "broken" / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()
    texts = [parse_source(READ[kind].format(tmp_path / name)).open().column("text") for name in ("whole", "broken")]
    assert texts[0] == texts[1] == [f"number {n}" for n in range(7)]


def test_processes_write_equal_files(tmp_path, source):
    convert(_plan(source, "tar", tmp_path / "a"))
    convert(_plan(source, "tar", tmp_path / "b"), workers=2)
    for path in (tmp_path / "a").glob("*.tar"):
        assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()


def test_unreadable_examples_are_counted(tmp_path):
    members = [("a.png", b"noise"), ("a.txt", b"x"), ("b.png", picture(1)), ("c.png", picture(2)), ("c.txt", b"\xff")]
    path = write(tmp_path / "x.tar", [*members, *pairs(range(3))])
    path.write_bytes(path.read_bytes()[: 9 * 1024 + 512 + 20])  # 20 bytes into the last picture
    actual = convert(_plan(TarShards(shards=str(path)), "tar", tmp_path / "out", per_shard=2))
    assert actual["written"] + sum(actual["bad"].values()) == actual["all"] == 7
    assert set(actual["bad"]) == {
        "the image cannot be decoded",
        "it has no member .txt",
        "the text is not UTF-8",
        "the tar ends after N of its N bytes",
        "the tar was cut short at byte N and the rest is lost",
    }
    assert actual["written"] == 2
    assert len(parse_source(f"{tmp_path}/out/*.tar").open()) == actual["written"]


def test_folder_of_another_conversion_is_refused(tmp_path, source):
    convert(_plan(source, "tar", tmp_path / "out"))
    with pytest.raises(UsageError, match=r"out has another conversion, described in .*plan.json"):
        convert(_plan(source, "tar", tmp_path / "out", per_shard=2))
    shutil.rmtree(tmp_path / "out/.jaxrep-convert")
    with pytest.raises(UsageError, match=r"out is not empty \(0000\d.tar\)"):
        convert(_plan(source, "tar", tmp_path / "out"))


def test_other_formats_become_png(tmp_path):
    Image.new("RGB", (4, 4), (9, 8, 7)).save(tmp_path / "a.bmp")
    (tmp_path / "t.csv").write_text("filepath,title\na.bmp,a\n")
    convert(_plan(Csv(path=f"{tmp_path}/t.csv"), "tar", tmp_path / "out"))
    image = parse_source(f"{tmp_path}/out/*.tar,image_size=4").open()[0]["image"]
    assert image[0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize("kind", READ)
def test_further_captions_are_stored(tmp_path, kind):
    captions = [("a.txt", b"a"), ("a.long", b"a long caption"), ("a.deutsch", b"ein Satz")]
    write(tmp_path / "x.tar", [("a.png", picture(1)), *captions])
    source = TarShards(shards=f"{tmp_path}/x.tar", captions=("long", "deutsch"))
    convert(_plan(source, kind, tmp_path / "out"))
    read = READ[kind].replace(",label=label", "").replace(",label=cls", "")
    examples = parse_source(read.format(tmp_path / "out")).open()
    assert (examples.column("text"), examples.column("long")) == (["a"], ["a long caption"])
    assert examples.column("deutsch") == ["ein Satz"]


METADATA = [
    {"error": None, "score": 0.5, "n": 2**60, "seen": True, "captions": ["one", "two"], "clip": {"b": [1, 2]}},
    {"error": "no", "score": 3, "n": 2**70, "seen": 2, "captions": [], "box": [0.5, 1], "clip": {}, "mixed": [1, "a"]},
    {"error": None, "captions": [None, "\ud800"], "box": [2**60, 1], "clip": None, "\udcff": float("nan"), "label": 3},
]
"""Values of JSON as data sets have them: nulls, numbers of two types, lists, objects, halves of characters."""


@pytest.mark.parametrize("kind", READ)
def test_any_metadata_can_be_stored(tmp_path, kind):
    texts = [(f"{n}.txt", b"%d" % n) for n in range(3)]
    write(tmp_path / "x.tar", [*texts, *((f"{n}.json", json.dumps(row).encode()) for n, row in enumerate(METADATA))])
    source = TarShards(shards=f"{tmp_path}/x.tar", image=())
    assert convert(_plan(source, kind, tmp_path / "out"))["written"] == 3
    read = READ[kind].replace(",label=label", "").replace(",label=cls", "").replace(",image_size=4", ",image=")
    examples = parse_source(read.format(tmp_path / "out")).open()
    assert examples.column("text") == ["0", "1", "2"] and examples.column("error") == ["", "no", ""]
    rows = [examples.metadata(n) for n in range(3)]
    assert [row.get("score") for row in rows[:2]] in ([0.5, 3], ["0.5", "3"]) and float(rows[2]["label"]) == 3
    assert float(rows[0]["n"]) == 2**60 and float(rows[1]["n"]) == 2**70
    if kind == "tar":
        assert rows[0] == {**METADATA[0], "key": "x.tar/0"} and rows[2]["captions"] == [None, "\\ud800"]
    else:
        assert json.loads(rows[1]["mixed"]) == [1, "a"] and json.loads(rows[0]["clip"]) == {"b": [1, 2]}
        assert json.loads(rows[2]["captions"]) == [None, "\\ud800"]


@pytest.mark.parametrize("kind", ["arrayrecord", "parquet"])
def test_lists_of_captions_and_of_numbers_stay_lists(tmp_path, kind):
    row = {"captions": ["one", "two"], "box": [0.5, 1]}
    write(tmp_path / "x.tar", [("0.txt", b"0"), ("0.json", json.dumps(row).encode())])
    convert(_plan(TarShards(shards=f"{tmp_path}/x.tar", image=()), kind, tmp_path / "out"))
    read = READ[kind].replace(",label=label", "").replace(",image_size=4", ",image=,text=captions")
    examples = parse_source(read.format(tmp_path / "out")).open()
    assert examples[0]["text"] == ("one", "two") and list(examples.record(0, 0).get("box", [0.5, 1.0])) == [0.5, 1.0]


def test_masks_are_refused(tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        Image.new("L", (5, 5)).save(tmp_path / folder / "a.png")
    source = LabelMaps(path=f"{tmp_path}/images", masks=f"{tmp_path}/masks", image_size=4, classes=9)
    with pytest.raises(UsageError, match="an example has a 'mask', and only images, texts and labels can be stored"):
        convert(_plan(source, "tar", tmp_path / "out"))


@pytest.mark.parametrize("content", ["", "[]", "5", "{}", '{"written": "x", "bad": {}, "bad_examples": []}'])
def test_damaged_notes_are_one_sentence(tmp_path, source, content):
    plan = _plan(source, "tar", tmp_path / "out")
    convert(plan)
    plan.note(1).write_text(content)
    with pytest.raises(UsageError, match=r"00001\.json is damaged"):
        convert(plan)
    plan.note(1).unlink()
    assert convert(plan)["written"] == 7
    (tmp_path / "out/.jaxrep-convert/plan.json").write_text(content)
    with pytest.raises(UsageError, match=r"has another conversion, described in .*plan\.json"):
        convert(plan)
