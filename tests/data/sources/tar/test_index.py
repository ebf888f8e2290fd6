"""Damaged and hostile tars end in bounded time and memory, and every loss is counted."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc

import numpy as np
import pytest

from jaxrep import storage
from jaxrep.data.sources.tar import index as tar_index
from jaxrep.data.sources.tar.manifest import index_shards
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import BadSample, BadShard, UsageError
from jaxrep.storage import FileVersion, file_version
from tests.helpers.tars import pairs, picture, read_all, write

pytestmark = pytest.mark.usefixtures("cache")


def header(name="x.txt", size=0, **changes):
    """Return a header with any size."""
    info = tarfile.TarInfo(name)
    for field, value in {"size": size, **changes}.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(record):
    """Return a pax header with one record, and the header of a member without content."""
    line = b" " + record + b"\n"
    length = next(n for n in range(len(line), len(line) + 9) if n == len(line) + len(str(n)))
    body = str(length).encode() + line
    extra = header("pax", len(body), type=tarfile.XHDTYPE)
    return extra + body.ljust(-(-len(body) // 512) * 512, b"\0") + header()


HOSTILE = {
    "negative size": header(size=-512),
    "very negative size": header(size=-(2**62)),
    "size of 2^40": header(size=2**40),
    "size of 2^62": header(size=2**62),
    "size of 2^80": header(size=2**80),
    "negative size in pax": pax(b"size=-1024"),
    "huge size in pax": pax(b"size=" + b"9" * 30),
    "no number in pax": pax(b"size=one"),
    "long name of 2^40": header("x", 2**40, type=tarfile.GNUTYPE_LONGNAME),
    "pax of 2^40": header("x", 2**40, type=tarfile.XHDTYPE),
    "negative long name": header("x", -512, type=tarfile.GNUTYPE_LONGNAME),
    "chain of pax headers": header("x", 0, type=tarfile.XHDTYPE) * 1200,
    "sparse": header("x.txt", -512, type=tarfile.GNUTYPE_SPARSE),
    "garbage": bytes(range(1, 256)) * 4 + bytes(4),
}


@pytest.mark.parametrize("block", HOSTILE.values(), ids=HOSTILE)
def test_hostile_header_costs_no_other_example(tmp_path, block):
    whole = write(tmp_path / "x.tar", pairs(range(4))).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:4096] + block + whole[4096:])
    tracemalloc.start()
    good, bad = read_all(tmp_path / "x.tar")
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
    assert good == [f"number {n}" for n in range(4)]
    assert all("x.tar" in reason for reason in bad)


@pytest.mark.parametrize("size", [2**40, 2**61])
def test_member_that_states_more_than_the_tar_has_is_a_bad_sample(tmp_path, size):
    (tmp_path / "x.tar").write_bytes(header("a.txt", size) + write(tmp_path / "y.tar", pairs([1])).read_bytes())
    examples = TarShards(shards=f"{tmp_path}/x.tar", image=()).open()
    assert examples.column("text") == ["", "number 1"]
    with pytest.raises(BadSample, match=rf"member a.txt: the tar ends after \d+ of its {size} bytes"):
        examples[0]


def test_huge_members_are_not_read(tmp_path):
    huge = 2**28  # more than is read of one part; the file has a hole there
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(header("a.png", huge))
        file.seek(huge, 1)
        file.write(header("a.txt", 1) + b"a".ljust(512, b"\0") + write(tmp_path / "y.tar", pairs([1])).read_bytes())
    examples = TarShards(shards=f"{tmp_path}/x.tar", image_size=4).open()
    before = storage.traffic().bytes
    with pytest.raises(BadSample, match=r"member a.png: it has 268,435,456 bytes, and up to 134,217,728 are read"):
        examples[0]
    assert examples[1]["text"] == "number 1" and storage.traffic().bytes - before < 10_000
    assert examples.column("text") == ["a", "number 1"]
    assert TarShards(shards=f"{tmp_path}/x.tar", text="png", image=()).open().column("text") == ["", ""]


def test_very_long_names_are_not_kept(tmp_path):
    long = "n" * 2**20
    write(tmp_path / "x.tar", [*pairs([0]), (f"{long}.png", picture(1)), (f"{long}.txt", b"x"), *pairs([2])])
    good, bad = read_all(tmp_path / "x.tar")
    assert good == ["number 0", "number 2"] and len(bad) == 2 and max(map(len, bad)) < 1000


def test_tar_of_70000_endings():
    names = ["a.txt", *(f"k.{n}" for n in range(70_000)), "z.txt"]
    index = tar_index.tabulate([tarfile.TarInfo(name) for name in names], [], FileVersion(1, "1"))
    index = tar_index.ShardIndex.load(index.dump())
    for ending, keys in (("txt", ["a", "z"]), ("69999", ["k"]), ("7", ["k"])):
        locations = index.select([[ending]], 1)
        assert [locations.key(row) for row in range(len(locations))] == keys


@pytest.mark.parametrize("ending", ["a,txt", "txt,", "a;txt"])
def test_endings_may_have_any_character(tmp_path, ending):
    write(tmp_path / "x.tar", [(f"k.{ending}", b"no"), ("z.txt", b"yes")])
    assert TarShards(shards=f"{tmp_path}/x.tar", image=()).open().column("text") == ["yes"]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_tar_may_end_without_zeros(tmp_path, count, blocks):
    path = write(tmp_path / "x.tar", pairs(range(count)))
    path.write_bytes(path.read_bytes()[: 2048 * count + 512 * blocks])
    assert read_all(path) == ([f"number {n}" for n in range(count)], [])


@pytest.mark.parametrize("damage", [lambda b: b, lambda b: b[:40], lambda b: b[:20] + b"\xff" * 20 + b[40:]])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_damaged_compressed_tars_are_refused_as_whole_ones(tmp_path, pack, damage):
    content = write(tmp_path / "x.tar", pairs(range(3))).read_bytes()
    (tmp_path / "x.tar").write_bytes(damage(pack(content)))
    with pytest.raises(UsageError, match=r"x.tar is compressed by \w+, .*: decompress it"):
        TarShards(shards=f"{tmp_path}/x.tar").open()


# Links


def linked(path, links, **options):
    """Write a tar of one example, and of links (name, target, type)."""
    with tarfile.open(path, "w", **options) as file:
        for name, content in [("a/0.png", picture(3)), ("a/0.txt", b"zero")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
    return path


LINK, SYMBOLIC = tarfile.LNKTYPE, tarfile.SYMTYPE


@pytest.mark.parametrize(
    "links",
    [
        [("b.png", "a/0.png", LINK), ("b.txt", "a/0.txt", LINK)],
        [("a/b.png", "0.png", SYMBOLIC), ("a/b.txt", "../a/0.txt", SYMBOLIC)],
        [("b.png", "./a/0.png", SYMBOLIC), ("b.txt", "c", LINK), ("c", "a/0.txt", SYMBOLIC)],
        [("b.png", "a/0.png", LINK), ("b.txt", "long" * 60, SYMBOLIC), ("long" * 60, "a/0.txt", LINK)],
    ],
    ids=["hard", "symbolic", "chain", "long"],
)
def test_links_are_read_as_the_member_they_name(tmp_path, links):
    examples = TarShards(shards=str(linked(tmp_path / "x.tar", links)), image_size=4).open()
    assert examples.column("text") == ["zero", "zero"] and (examples.column("image")[:, 0, 0, 0] == 3).all()


@pytest.mark.parametrize(
    "links",
    [
        [("b.png", "a/1.png", LINK)],
        [("b.png", "/etc/passwd", SYMBOLIC)],
        [("b.png", "../a/0.png", SYMBOLIC)],
        [("b.png", "c.png", SYMBOLIC), ("c.png", "b.png", SYMBOLIC)],
        [("b.png", "a", SYMBOLIC)],
    ],
    ids=["missing", "outside", "above", "circle", "folder"],
)
def test_links_to_nothing_are_bad_samples(tmp_path, links):
    examples = TarShards(shards=str(linked(tmp_path / "x.tar", links)), text="").open()
    assert len(examples) == 1 + len(links)
    with pytest.raises(BadSample, match=r"x.tar, member b.png: it is a link to a file that the tar lacks"):
        examples[1]


# Members that no part takes


def test_members_that_are_not_read_are_told(tmp_path, capsys):
    names = ["plain1", "plain2", "video.12.5"]
    write(tmp_path / "x.tar", [(f"{name}.{e}", c) for name in names for e, c in (("png", picture(1)), ("txt", b"x"))])
    assert len(TarShards(shards=f"{tmp_path}/x.tar").open()) == 2
    told = capsys.readouterr().err
    assert "have 2 members that are not read" in told and ".12.5.png (1), .12.5.txt (1)" in told
    assert "a key ends at the first dot" in told


def test_few_members_that_are_not_read_are_not_told(tmp_path, capsys):
    write(tmp_path / "x.tar", [("readme.md", b""), *pairs(range(200))])
    TarShards(shards=f"{tmp_path}/x.tar").open()
    assert capsys.readouterr().err == ""


def test_error_names_the_endings_that_exist(tmp_path):
    members = [(f"{n}.{ending}", b"x") for n in range(3) for ending in ("input.jpg", "outputs.txt")]
    write(tmp_path / "x.tar", members)
    expected = r"no member that ends in .jpg, .jpeg, .png, .webp, .txt; there are: .input.jpg \(3\), .outputs.txt \(3\)"
    with pytest.raises(UsageError, match=expected):
        TarShards(shards=f"{tmp_path}/x.tar").open()
    assert len(TarShards(shards=f"{tmp_path}/x.tar", image=("input.jpg",), text="outputs.txt").open()) == 3


# The sidecar


def sidecar(path):
    content = tar_index.scan(str(path)).dump()
    with np.load(io.BytesIO(content)) as file:
        return dict(file)


def dumped(parts, save=np.savez):
    body = io.BytesIO()
    save(body, **parts)
    return body.getvalue()


def test_sidecar_that_unpacks_to_more_is_refused(tmp_path):
    parts = sidecar(write(tmp_path / "x.tar", pairs([1])))
    assert tar_index.ShardIndex.load(dumped(parts)) is not None
    bomb = dumped(parts | {"keys": np.zeros(200 * 2**20, np.uint8)}, np.savez_compressed)
    tracemalloc.start()
    assert tar_index.ShardIndex.load(bomb) is None
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"members": np.array([(7, 0, 0, 0)], tar_index.MEMBER)},
        {"members": np.array([(0, 70, 0, 0)], tar_index.MEMBER)},
        {"members": np.zeros(3)},
        {"head": np.array("[]")},
        {"head": np.array('{"row": {"size": "x", "stamp": 5, "kinds": [], "damage": 1}, "extensions": []}')},
        {"head": np.array("{broken")},
    ],
    ids=str,
)
def test_sidecar_that_contradicts_itself_is_refused(tmp_path, change):
    parts = sidecar(write(tmp_path / "x.tar", pairs([1])))
    assert tar_index.ShardIndex.load(dumped(parts | change)) is None


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"5", b'"x"', b'{"x.tar": {}}', b'{"x.tar": {"size": "x"}}', b"{", b"\xff"]
)
def test_damaged_manifest_is_made_again(tmp_path, content):
    source = TarShards(shards=str(write(tmp_path / "x.tar", pairs([1]))))
    (tmp_path / ".jaxrep-index").mkdir()
    (tmp_path / ".jaxrep-index/manifest.json").write_bytes(content)
    assert source.open().column("text") == ["number 1"]


def test_index_of_an_older_format_is_made_again(tmp_path):
    path = write(tmp_path / "x.tar", pairs(range(3)))
    version = file_version(str(path))
    row = {"size": version.size, "stamp": version.stamp, "kinds": {"png,txt": 9}, "damage": ["it was cut short"]}
    (tmp_path / ".jaxrep-index").mkdir()
    (tmp_path / ".jaxrep-index/manifest.json").write_text(json.dumps({"x.tar": row}))
    parts = sidecar(path) | {"head": np.array(json.dumps({"version": 1, "row": row, "extensions": ["png", "txt"]}))}
    (tmp_path / ".jaxrep-index/x.tar.npz").write_bytes(dumped(parts))
    assert TarShards(shards=str(path), image_size=4).open().column("text") == [f"number {n}" for n in range(3)]


def test_index_that_differs_from_its_manifest_is_a_bad_shard(tmp_path):
    source = TarShards(shards=str(write(tmp_path / "x.tar", pairs(range(3)))))
    index_shards([source.shards], beside=True)
    manifest = tmp_path / ".jaxrep-index/manifest.json"
    manifest.write_text(manifest.read_text().replace('"png/txt": 3', '"png/txt": 5'))
    with pytest.raises(BadShard, match=r"the index of .*x.tar differs from its manifest: remove .*.jaxrep-index"):
        source.open()[4]
