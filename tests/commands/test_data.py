"""The data tools count readable and unreadable examples, resume work, and report a mistake in one sentence."""

import io
import json
import os
import random
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tokenizers
from PIL import Image

from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.tar import index, manifest
from jaxrep.data.tools.writers import FORMATS
from tests.helpers.tars import pairs, picture, write

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def data(jaxrep_says):
    """Runs ``jaxrep data`` with further arguments; gives what was printed, of a run that ends well."""

    def run(*args):
        status, out, err = jaxrep_says("data", *args)
        assert status == 0, err
        return out, err

    return run


# inspect


def _inspected(data, source):
    actual = json.loads(data("inspect", source, "--json")[0])
    assert actual["examples"] + sum(actual["bad"].values()) == actual["all"]
    return actual


def test_inspect_reports_sizes_captions_and_distinct_images(data, tmp_path):
    members = [*pairs(range(3)), ("again.png", picture(1)), ("again.txt", b"number 9, again")]
    write(tmp_path / "x.tar", members)
    actual = _inspected(data, f"{tmp_path}/x.tar")
    assert (actual["examples"], actual["bad"], actual["shards"]) == (4, {}, 1)
    assert (actual["distinct_image_id"], actual["distinct_text_id"], actual["formats"]) == (3, 4, {"PNG": 4})
    assert actual["width"]["median"] == actual["height"]["max"] == 5
    assert (actual["characters"]["min"], actual["characters"]["max"]) == (8, 15)
    out, _ = data("inspect", f"{tmp_path}/x.tar")
    assert out.startswith("4 of 4 examples can be read, in 1 shards\n") and "distinct image_id: 3" in out


def test_inspect_counts_every_caption(data, tmp_path):
    captions = {"a": ["one", "three"], "b": ["three", "eleven", "two"], "c": "two"}
    files = [(f"{key}.json", json.dumps({"c": texts}).encode()) for key, texts in captions.items()]
    write(tmp_path / "x.tar", files)
    actual = _inspected(data, f"tar:{tmp_path}/x.tar,image=,text=json:c")
    assert actual["examples"] == 3 and actual["distinct_text_id"] == 4
    assert (actual["characters"]["min"], actual["characters"]["max"], actual["characters"]["mean"]) == (3, 6, 4.2)


def test_inspect_draws_a_grid(data, tmp_path):
    write(tmp_path / "x.tar", pairs(range(10)))
    data("inspect", f"{tmp_path}/x.tar", "--grid", tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as sheet:
        assert sheet.size == (1024, 256)
        assert [sheet.getpixel((128 * n + 64, 64))[0] for n in range(8)] == list(range(8))


def _jpeg(seed):
    file = io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(noise).resize((64, 64)).save(file, "JPEG")
    return bytearray(file.getvalue())


FAULTS = {
    "a tar cut in half": "the tar was cut short at byte N and the rest is lost",
    "a garbage header": "no member can be read between the bytes N and N of the tar",
    "zero-length members": "the image is empty",
    "a caption of 10 MB": "the text has N bytes, more than the N that are read",
    "garbage in a JPEG": "the image cannot be decoded",
    "keys that differ in case": None,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_loses_only_its_examples(data, tmp_path, fault):
    members = [member for n in range(20) for member in ((f"{n:02}.jpg", _jpeg(n)), (f"{n:02}.txt", b"number %d" % n))]
    lost = 1
    if fault == "zero-length members":
        members[6:8], lost = [("03.jpg", b""), ("03.txt", b"")], 1
    if fault == "a caption of 10 MB":
        members[7] = ("03.txt", b"long " * 2_000_000)
    if fault == "garbage in a JPEG":
        members[6][1][200:600] = random.Random(0).randbytes(400)
    if fault == "keys that differ in case":
        members, lost = [(n.replace("1", "A").replace("2", "a"), c) for n, c in members], 0
    path = write(tmp_path / "x.tar", members)
    with tarfile.open(path) as tar:
        offsets = {member.name: member.offset for member in tar}
    content = bytearray(path.read_bytes())
    if fault == "a tar cut in half":
        content, lost = content[: offsets["10.txt"] + 515], 10
    if fault == "a garbage header":
        content[offsets["03.jpg"] : offsets["03.jpg"] + 512] = b"\x07" * 512
    path.write_bytes(content)
    actual = _inspected(data, f"{path},image_size=16")
    assert actual["examples"] == 20 - lost
    assert FAULTS[fault] is None or any(FAULTS[fault] in reason for reason in actual["bad"])


@pytest.mark.parametrize("at", range(0, 1000, 61))
def test_flipped_byte_in_jpeg_is_counted_once(data, tmp_path, at):
    content = _jpeg(0)
    content[at % len(content)] ^= 0x55
    write(tmp_path / "x.tar", [("a.jpg", content), ("a.txt", b"a"), *pairs([1])])
    actual = _inspected(data, f"{tmp_path}/x.tar,image_size=16")
    assert actual["all"] == 2 and actual["examples"] >= 1


def test_vanished_shard_is_counted(tmp_path):
    from jaxrep.data.tools.survey import survey

    for n in range(2):
        write(tmp_path / f"{n}.tar", pairs(range(3 * n, 3 * n + 3)))
    examples = parse_source(f"{tmp_path}/{{0..1}}.tar,image_size=4").open()
    (tmp_path / "1.tar").unlink()
    actual = survey(examples)[0]
    assert (actual["examples"], actual["bad"]) == (3, {"the shard cannot be read": 3})


@pytest.mark.parametrize("tool", ["inspect", "dedup", "convert"])
def test_source_without_a_readable_example_is_an_error(jaxrep_says, tmp_path, tool):
    """Check the status that a script looks at, for images and captions that are all damaged."""
    write(tmp_path / "x.tar", [(f"{n}.{ending}", b"\xff") for n in range(3) for ending in ("png", "txt")])
    rest = (f"csv:{tmp_path}/out", "--workers", "0") if tool == "convert" else ()
    status, out, err = jaxrep_says("data", tool, f"{tmp_path}/x.tar", *rest)
    assert status == 1 and f"no example of {tmp_path}/x.tar can be read" in err
    assert tool != "inspect" or "3 unreadable: the image cannot be decoded" in out


# index


@pytest.mark.parametrize("beside", [True, False])
def test_index_is_beside_the_shards_or_in_the_cache(data, tmp_path, cache, beside, monkeypatch):
    for n in range(3):
        write(tmp_path / f"{n}.tar", pairs(range(n + 1)))
    out, _ = data("index", f"{tmp_path}/{{0..2}}.tar", *["--beside"] * beside)
    assert out.startswith("3 shards have 6 examples in ")
    assert (tmp_path / ".jaxrep-index/manifest.json").exists() == beside == (not cache.exists())
    monkeypatch.setattr(index, "scan", lambda path: pytest.fail(f"{path} is read again"))
    assert (
        len(parse_source(f"{tmp_path}/*.tar").open()) == 6
        and parse_source(f"{tmp_path}/*.tar").open()[5]["text"] == "number 2"
    )


def test_interrupted_indexing_continues(tmp_path, monkeypatch):
    paths = [str(write(tmp_path / f"{n}.tar", pairs(range(n + 1)))) for n in range(4)]
    scanned, scan = [], index.scan

    def dies(path):
        scanned.append(path)
        if path == paths[2] and scanned.count(path) == 1:
            raise KeyboardInterrupt
        return scan(path)

    monkeypatch.setattr(index, "scan", dies)
    with pytest.raises(KeyboardInterrupt):
        manifest.index_shards(paths)
    shards = manifest.index_shards(paths)
    assert [shard.summary.count_examples([["txt"]]) for shard in shards] == [1, 2, 3, 4]
    assert all(scanned.count(path) == 1 for path in paths if path != paths[2])


def test_processes_index_and_report_damage(data, tmp_path):
    for n in range(2):
        write(tmp_path / f"{n}.tar", pairs(range(3)))
    (tmp_path / "1.tar").write_bytes((tmp_path / "1.tar").read_bytes()[:4352])
    out, err = data("index", f"{tmp_path}/*.tar", "--workers", "2")
    assert out.startswith("2 shards have 5 examples") and "between the bytes 4096 and 4352 of the tar" in err


def test_damaged_sidecar_or_manifest_is_made_again(tmp_path, capsys):
    write(tmp_path / "x.tar", pairs(range(3)))
    source = parse_source(f"{tmp_path}/x.tar")
    manifest.index_shards([f"{tmp_path}/x.tar"], beside=True)
    for name in ("x.tar.npz", "manifest.json"):
        (tmp_path / ".jaxrep-index" / name).write_bytes(b"damaged")
        assert source.open()[2]["text"] == "number 2"
    assert "manifest.json is damaged" in capsys.readouterr().err


# mistakes


def test_mistakes_are_reported_in_one_sentence(jaxrep_says, tmp_path):
    write(tmp_path / "x.tar", pairs([1]))
    for args, message in [
        ((), "a tool is missing; there are: index, inspect"),
        (("inspct", "x"), "there is no tool 'inspct'; did you mean inspect?"),
        (("inspect", f"{tmp_path}/none.tar"), "there is no file"),
        (("inspect", f"{tmp_path}/x.tar", "--grid", tmp_path), "it is a folder"),
        (("index", "openmoji"), "openmoji needs no index: only tars do"),
        (("convert", f"{tmp_path}/x.tar", "zip:out"), "zip:out is no local target: give kind and folder"),
        (("convert", f"{tmp_path}/x.tar", "tar:gs://b/out"), "is no local target"),
        (
            ("inspect", f"{tmp_path}/x.tar", "--grid", "/dev/null"),
            "--grid /dev/null cannot be written: it is",
        ),
        (
            ("convert", f"{tmp_path}/x.tar", f"tar:{tmp_path}/o", "--per-shard", "0"),
            "--per-shard: expected a whole number",
        ),
    ]:
        status, _, err = jaxrep_says("data", *args)
        assert (status, message in err) == (2, True), err


WHOLE, POSITIVE = ("-1", "0", "2.5", "x", "nan", str(2**70)), ("-1", "0", "nan", "inf", "x")


@pytest.mark.parametrize(
    "tool, option, wrong",
    [
        ("bench", "--batch-size", WHOLE),
        ("bench", "--threads", (*WHOLE, "100000")),
        ("bench", "--workers", ("-1", "x", "1e3", "100000")),
        ("bench", "--seconds", POSITIVE),
        ("bench", "--need", WHOLE),
        ("convert", "--per-shard", WHOLE),
        ("convert", "--workers", ("-1", "100000")),
        ("curate", "--t", WHOLE),
        ("curate", "--per-chunk", WHOLE),
        ("curate", "--seed", ("-1", "x", str(2**64))),
        ("dedup", "--distance", ("-1", "17", "x")),
        ("tokenizer", "--size", WHOLE),
        ("index", "--workers", ("-1", "100000")),
    ],
)
def test_numbers_out_of_their_range_are_refused_before_the_work(jaxrep_says, tool, option, wrong):
    others = {"convert": ["tar:o"], "curate": ["--metadata", "m", "--out", "o"], "tokenizer": ["--out", "o"]}
    for number in wrong:
        status, _, err = jaxrep_says("data", tool, "x.tar", *others.get(tool, ()), f"{option}={number}")
        assert status == 2 and f"argument {option}: expected a " in err, err


def test_convert_reports_left_out_examples(data, tmp_path):
    write(tmp_path / "x.tar", [*pairs(range(3)), ("bad.png", b""), ("bad.txt", b"x")])
    out, err = data("convert", f"{tmp_path}/x.tar", f"parquet:{tmp_path}/out", "--workers", "0")
    assert out == f"wrote 3 of 4 examples to {tmp_path}/out\n" and "1 unreadable: the image is empty" in err
    assert len(parse_source(f"{tmp_path}/out/*.parquet").open()) == 3


# tokenizer, bench, dedup


def test_tokenizer_is_trained_on_readable_captions(data, tmp_path):
    members = [*pairs(range(9)), ("x.png", picture(1)), ("x.txt", b"\xff")]
    write(tmp_path / "x.tar", members)
    out, err = data("tokenizer", f"{tmp_path}/x.tar", "--out", tmp_path / "t.json", "--size", "270")
    assert out.startswith("wrote 270 entries") and "1 unreadable: the text is not UTF-8" in err
    assert len(tokenizers.Tokenizer.from_file(str(tmp_path / "t.json")).encode("number 3").ids) <= 5


def test_bench_gives_rate_per_stage(data, tmp_path):
    write(tmp_path / "x.tar", [*pairs(range(9)), ("x.png", b""), ("x.txt", b"empty picture")])
    args = ("--seconds", "0.05", "--batch-size", "4")
    rates = json.loads(data("bench", f"{tmp_path}/x.tar,image_size=8", *args, "--json")[0])
    stages, costs = dict(list(rates.items())[:4]), dict(list(rates.items())[4:])
    assert list(stages) == ["read", "decode", "tokenize", "loader"] and min(stages.values()) > 0
    names = ["cores", "cpu_microseconds_per_example", "requests_per_example", "bytes_per_example"]
    assert list(costs) == names and min(costs.values()) > 0
    assert data("bench", f"{tmp_path}/x.tar,text=,image_size=8", *args)[0].count("examples/s") == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_bench_counts_the_reads_and_what_a_rate_would_take(data, tmp_path, workers):
    """An example without metadata lies together in its tar: its bytes are those of its members, and tar's headers."""
    members = pairs(range(9))
    write(tmp_path / "x.tar", members)
    args = (f"{tmp_path}/x.tar,image_size=8", "--seconds", "0.5", "--batch-size", "9", "--need", "5000")
    found = json.loads(data("bench", *args, "--workers", workers, "--order", "windowed", "--json")[0])
    content, padding = sum(len(content) for _, content in members) / 9, 2 * 1024
    assert 0.5 <= found["requests_per_example"] <= 2.5
    assert content * 0.5 < found["bytes_per_example"] < (content + padding) * 1.5
    needed = found["needed"]
    assert needed["examples_per_second"] == 5000
    assert needed["requests_per_second"] == pytest.approx(5000 * found["requests_per_example"], rel=1e-2)
    assert needed["bytes_per_second"] == pytest.approx(5000 * found["bytes_per_example"], rel=1e-2)
    assert needed["cores"] == pytest.approx(5e-3 * found["cpu_microseconds_per_example"], abs=0.01)
    told = data("bench", *args, "--threads", "2")[0]
    assert "the loader has 2 threads, of " in told and "5,000 examples/s are" in told


def test_dedup_reports_copies_and_shared_images(data, tmp_path):
    for name, seeds in (("train", (1, 2, 1)), ("test", (3, 2))):
        write(tmp_path / f"{name}.tar", [(f"{n}.jpg", _jpeg(seed)) for n, seed in enumerate(seeds)])
    args = (f"{tmp_path}/train.tar,text=", "--against", f"{tmp_path}/test.tar,text=", "--out", tmp_path / "out.json")
    out, _ = data("dedup", *args)
    assert "the same file: 1 groups, 1 redundant images" in out
    actual = json.loads((tmp_path / "out.json").read_text())
    assert actual["exact"] == [["train.tar/0", "train.tar/2"]]
    assert actual["shared_exact"] == actual["shared_near"] == [["test.tar/1", "train.tar/1"]]


# names of files


@pytest.fixture
def latin(tmp_path):
    """Pictures whose names are Latin-1, in folders whose names are, too."""
    folder = os.fsencode(tmp_path) + b"/caf\xe9/class \xff"
    os.makedirs(folder)
    for name in (b"\xe9.png", b"b.png", b"c \xff.png"):
        with open(folder + b"/" + name, "wb") as file:
            file.write(picture(1))
    return os.fsdecode(os.path.dirname(folder))


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_are_no_unicode_are_converted_to_valid_text(data, latin, tmp_path, kind):
    out, err = data("convert", latin, f"{kind}:{tmp_path}/out", "--workers", "0")
    assert out.startswith("wrote 3 of 3 examples") and not err.count("Traceback")
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or path.suffix not in (".json", ".csv") or path.read_bytes().decode()


def test_names_that_are_no_unicode_are_printed_and_written_as_json(data, latin, tmp_path):
    assert data("inspect", latin)[0].startswith("3 of 3")
    data("dedup", latin, "--out", tmp_path / "dedup.json")
    (group,) = json.loads((tmp_path / "dedup.json").read_text(encoding="utf-8"))["exact"]
    names = (b"b.png", b"c \xff.png", b"\xe9.png")
    assert [os.fsencode(key) for key in sorted(group)] == [b"class \xff/" + name for name in names]


@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_standard_output_takes_any_name(latin, locale):
    with open(os.fsencode(latin) + b"/class \xff/d\xe9.png", "wb") as file:
        file.write(b"no picture")
    command = [sys.executable, "-m", "jaxrep", "data", "inspect", latin]
    found = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": locale})
    assert (found.returncode, b"d\\udce9.png" in found.stdout) == (0, True), found.stderr
