"""``jaxrep data curate`` curates, reads and copies shards, and reports a mistake in one sentence."""

import json

import pytest

from jaxrep.data.source_string import parse_source
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.balance import TakeCurated
from tests.helpers.tars import picture, write

pytestmark = pytest.mark.usefixtures("cache")
TEXTS = [f"{'a photo' if n % 3 else ''} of {('a red fox', 'an owl', 'nothing')[n * n % 7 % 3]}, {n}" for n in range(60)]


@pytest.fixture
def metadata(tmp_path):
    (tmp_path / "entries.txt").write_text("photo\nred fox\nfox\nowl")
    return [f"{tmp_path}/entries.txt"]


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "pool.txt").write_text("\n".join(TEXTS))
    return f"lines:{tmp_path}/pool.txt"


@pytest.fixture
def tars(tmp_path):
    for shard in range(2):
        members = []
        for n in range(shard * 30, shard * 30 + 30):
            members += [(f"{n:04}.png", picture(n)), (f"{n:04}.txt", TEXTS[n].encode())]
        write(tmp_path / f"{shard}.tar", members)
    write(tmp_path / "2.tar", [("x.txt", b"\xff"), ("x.png", picture(0)), ("y.png", picture(0))])
    return TarShards(shards=f"{tmp_path}/{{0..2}}.tar", image_size=4)


def test_tars_are_curated_read_and_copied(tmp_path, tars, metadata, jaxrep_says):
    status, out, err = jaxrep_says(
        *("data", "curate", f"tar:{tars.shards},image_size=4", "--metadata", *metadata, "--out", tmp_path / "out"),
        *("--t", 5, "--per-chunk", 25, "--workers", 0, "--copy", f"tar:{tmp_path}/copy", "--keys", tmp_path / "keys"),
    )
    assert status == 0, err
    report = json.loads((tmp_path / "out/t5-seed0/curation.json").read_text())
    assert report["unreadable"] == {"the text is not UTF-8": 1, "it has no member .txt": 1}
    assert out.startswith(f"kept {report['kept']:,} of 62 pairs ({report['kept'] / 62:.1%})")
    keys = (tmp_path / "keys").read_text().split()
    actual = TakeCurated(source=tars, kept=f"{tmp_path}/out/t5-seed0").open()
    assert actual.column("key") == keys and len(keys) == report["kept"] == len(actual)
    numbers = [int(key.rpartition("/")[2]) for key in keys]
    assert [actual[n]["text"] for n in range(len(actual))] == [TEXTS[n].strip() for n in numbers]
    copied = parse_source(f"{tmp_path}/copy/*.tar,image_size=4").open()
    assert copied.column("text") == actual.column("text")
    assert [copied.content(n, "image") for n in range(len(copied))] == [picture(n) for n in numbers]


@pytest.mark.parametrize(
    "options, out",
    [
        (["--t", 0], "--t: expected a whole number of at least 1"),
        (["--seed", -1], "--seed: expected a whole number of at least 0"),
        (["--copy", "zip:x"], "zip:x is no local target: give kind and folder, as tar:FOLDER"),
        (["--keys", "/none/x"], "--keys /none/x cannot be written"),
        (["--metadata", "/none"], "/none cannot be read (No such file)"),
    ],
)
def test_mistakes_are_reported_before_the_work(tmp_path, lines, metadata, jaxrep_says, options, out):
    status, _, err = jaxrep_says(
        *("data", "curate", lines, "--metadata", *metadata, "--out", tmp_path / "out", *options)
    )
    assert status and out in err and not (tmp_path / "out").exists()


def test_entries_without_text_are_reported(tmp_path, lines, jaxrep_says):
    (tmp_path / "entries.txt").write_text("zebra")
    status, _, err = jaxrep_says(
        *("data", "curate", lines, "--metadata", tmp_path / "entries.txt", "--out", tmp_path / "out")
    )
    assert status == 1 and "has one of the 1 entries" in err
