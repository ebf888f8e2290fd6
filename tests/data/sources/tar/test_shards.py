"""Tars of image-text pairs are read at random, in any thread, and resume exactly; damage is always reported."""

import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxrep.data.loading.loader import Loader, Tokenize
from jaxrep.data.orders.base import Shuffle
from jaxrep.data.sources.tar import examples as tar_examples
from jaxrep.data.sources.tar import index as tar_index
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.tokenizers.base import Bytes
from jaxrep.errors import BadSample, BadShard, UsageError
from jaxrep.spec import problems
from tests.helpers.tars import pairs, picture, read_all, write

pytestmark = pytest.mark.usefixtures("cache")


def test_examples_follow_the_order_of_the_shards(shards):
    examples = shards.open()
    assert len(examples) == 13
    for n in range(13):
        assert examples[n]["image"].shape == (4, 4, 3) and examples[n]["image"][0, 0, 0] == n
        assert examples[n]["text"] == f"number {n}"
    assert examples[-1]["text"] == "number 12"
    assert [examples.column("key")[n] for n in (0, 5, 12)] == ["0.tar/0000", "1.tar/0005", "2.tar/0012"]
    with pytest.raises(IndexError, match=r"example 13 of 13"):
        examples[13]


def test_members_of_one_key_are_an_example(tmp_path):
    members = [
        ("a/x.y.JPG", b"not this"),  # its extension is y.jpg
        ("a/x.cls", b"2"),
        ("b/x.cls", b"1"),
        ("A/x.cls", b"0"),
        ("b/x.png", picture(7)),
        ("b/x.txt", b"seven"),
        ("a/x.png", picture(9)),
        ("a/x.JPG", picture(8)),  # the order of `image` counts, not that of the tar
        ("a/x.txt", b"acht, weit weg im Archiv"),
        ("A/x.jpeg", picture(6)),
        ("A/x.txt", b"six"),
        ("b/" + "long" * 60 + ".txt", b"not seven"),
        ("b/" + "long" * 60 + ".png", picture(5)),
        ("b/" + "long" * 60 + ".cls", b"2"),
        ("readme.md", b"no example"),
    ]
    write(tmp_path / "x.tar", members, format=tarfile.PAX_FORMAT)
    examples = TarShards(shards=f"{tmp_path}/x.tar", image_size=4, label="cls").open()
    assert examples.column("key") == ["x.tar/a/x", "x.tar/b/x", "x.tar/A/x", "x.tar/b/" + "long" * 60]
    assert examples.column("label").tolist() == [2, 1, 0, 2]
    assert examples.column("text") == ["acht, weit weg im Archiv", "seven", "six", "not seven"]
    assert examples.column("image")[:, 0, 0, 0].tolist() == [8, 7, 6, 5]


def test_tar_of_captions_only_or_images_only(shards):
    (path, *_) = shards.shards.split("{")
    assert TarShards(shards=f"{path}0.tar", image=()).open()[1].keys() == {"key", "text", "text_id"}
    assert TarShards(shards=f"{path}0.tar", text="").open()[1].keys() == {"key", "image", "image_id"}
    assert "an example is empty" in problems(TarShards(shards="x", image=(), text=""))[0]


# The index


def test_index_is_built_once(shards, monkeypatch):
    first = shards.open()
    monkeypatch.setattr(tar_index, "members", lambda *args: pytest.fail("headers are read again"))
    second = shards.open()
    assert second.column("text") == first.column("text") and len(second) == 13


def test_changed_tar_is_indexed_again(tmp_path, shards):
    shards.open()
    write(tmp_path / "2.tar", pairs(range(20, 23)))
    assert shards.open().column("text")[-3:] == ["number 20", "number 21", "number 22"]


def test_index_serves_other_extensions(tmp_path):
    write(tmp_path / "x.tar", [("a.txt", b"one"), ("a.de", b"eins")])
    for extension, text in (("txt", "one"), ("de", "eins")):
        assert TarShards(shards=f"{tmp_path}/x.tar", image=(), text=extension).open().column("text") == [text]


# The loader


def _take(examples, count, **changes):
    loader = Loader(
        examples, Shuffle(seed=3).indices(examples, 1), 4, transform=Tokenize(Bytes(length=12).load()), **changes
    )
    try:
        return [next(loader) for _ in range(count)]
    finally:
        loader.close()


@pytest.mark.parametrize("changes", [{"threads": 0}, {"threads": 3}], ids=str)
def test_loader_resumes_at_the_next_example(shards, changes):
    examples = shards.open()
    unbroken = _take(examples, 8, threads=1)  # two epochs and a half
    assert sorted(np.concatenate([batch["image"][:, 0, 0, 0] for batch in unbroken])[:13]) == list(range(13))
    resumed = _take(examples, 5, position=12, **changes)
    for batch, expected in zip(resumed, unbroken[3:], strict=True):
        assert batch.keys() == expected.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(values, expected[name])


def test_threads_and_pickled_copies_read_the_same(shards):
    examples = shards.open()
    expected = [examples[n]["image_id"] for n in range(13)] * 20
    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(lambda n: pickle.loads(pickle.dumps(examples))[n]["image_id"], list(range(13)) * 20))
    assert actual == expected


# Faults


def test_bad_sample_names_shard_and_member(tmp_path):
    members = [("a.png", b"noise"), ("a.txt", b"x"), ("b.png", picture(1)), ("c.txt", b"\xff"), ("d.png", b"")]
    write(tmp_path / "x.tar", members)
    examples = TarShards(shards=f"{tmp_path}/x.tar").open()
    wrong = [
        r"x.tar, member a.png: the image cannot be decoded",
        r"x.tar, example 'b': it has no member .txt",
        r"x.tar, example 'c': it has no member .jpg or .jpeg or .png or .webp",
    ]
    for index, message in enumerate(wrong):
        with pytest.raises(BadSample, match=message):
            examples[index]
    with pytest.raises(BadSample, match=r"x.tar, member c.txt: the text is not UTF-8"):
        TarShards(shards=f"{tmp_path}/x.tar", image=()).open()[1]
    with pytest.raises(BadSample, match=r"x.tar, member d.png: the image is empty"):
        TarShards(shards=f"{tmp_path}/x.tar", text="").open()[2]


def test_truncated_or_missing_shard_is_reported(tmp_path, shards):
    examples = shards.open()
    path = tmp_path / "1.tar"
    assert examples[6]["text"] == "number 6"  # its index is in memory
    path.write_bytes(path.read_bytes()[: 1024 * 5])
    with pytest.raises(BadSample, match=r"1.tar, member 0011.png: the tar ends after 0 of its \d+ bytes"):
        examples[11]
    with pytest.raises(BadShard, match=r"1.tar has changed since it was indexed \(then 20480 bytes, now 5120\)"):
        pickle.loads(pickle.dumps(examples))[11]
    path.unlink()
    for reader in (examples, pickle.loads(pickle.dumps(examples))):
        with pytest.raises(BadShard, match=r"1.tar cannot be read \(No such file"):
            reader[5]
    assert examples[12]["text"] == "number 12"  # the others are read on


@pytest.mark.parametrize("kept", range(2560, 6144, 256))
def test_truncated_tar_gives_all_whole_examples(tmp_path, kept):
    path = write(tmp_path / "x.tar", pairs(range(3)))  # 4 blocks of 512 bytes a pair, then the end
    path.write_bytes(path.read_bytes()[:kept])
    good, bad = read_all(path)
    whole = sum(2048 * n + 1536 + len(f"number {n}\n") <= kept for n in range(3))
    assert good == [f"number {n}" for n in range(whole)]
    told = any("the tar was cut short at byte" in reason or "no member can be read between" in reason for reason in bad)
    assert told == (kept not in (3072, 4096, 5120))  # a tar may end after a whole member, without zeros


def test_examples_after_damaged_header_are_read(tmp_path):
    path = write(tmp_path / "x.tar", pairs(range(4)))
    content = bytearray(path.read_bytes())
    content[2048 : 2048 + 512] = b"x" * 512  # of 0001.png
    path.write_bytes(content)
    good, bad = read_all(path)
    assert good == ["number 0", "number 2", "number 3"]
    assert "example '0001': it has no member .jpg or .jpeg or .png or .webp" in bad[0]
    assert "x.tar: no member can be read between the bytes 2048 and 3072 of the tar" in bad[1]


def test_concatenated_tars_are_read(tmp_path):
    one, two = (write(tmp_path / f"{n}.tar", pairs([n])).read_bytes() for n in range(2))
    (tmp_path / "x.tar").write_bytes(one + two)  # as `cat` joins them
    assert read_all(tmp_path / "x.tar") == (["number 0", "number 1"], [])


def test_other_files_and_compressed_tars_are_refused(tmp_path):
    (tmp_path / "x.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(
        UsageError, match=r"have no member that ends in .*x.tar: no member can be read between the bytes 0 and 6000"
    ):
        TarShards(shards=f"{tmp_path}/x.tar").open()
    with tarfile.open(tmp_path / "y.tar", "w:gz") as file:
        file.add(tmp_path / "x.tar", "x")
    with pytest.raises(UsageError, match=r"y.tar is compressed by gzip, .*: decompress it"):
        TarShards(shards=f"{tmp_path}/y.tar").open()


def test_empty_shard_is_one_bad_sample(tmp_path, shards):
    (tmp_path / "1.tar").write_bytes(b"")
    examples = shards.open()
    assert len(examples) == 7 and examples.shard_ends.tolist() == [5, 6, 7]
    with pytest.raises(BadSample, match=r"1.tar: the tar was cut short at byte 0"):
        examples[5]
    assert examples.column("text")[4:] == ["number 4", "", "number 12"]


def test_duplicate_member_is_a_bad_sample(tmp_path):
    write(tmp_path / "x.tar", [*pairs([1]), ("0001.TXT", b"another"), *pairs([2])])
    good, bad = read_all(tmp_path / "x.tar")
    assert good == ["number 2"] and "example '0001': the tar has two members of one name for its text" in bad[0]


def test_keys_are_case_sensitive(tmp_path):
    write(tmp_path / "x.tar", [("a.png", picture(1)), ("A.png", picture(2)), ("A.txt", b"big"), ("a.txt", b"small")])
    assert read_all(tmp_path / "x.tar") == (["small", "big"], [])


def test_empty_member_is_reported(tmp_path):
    write(tmp_path / "x.tar", [("a.png", b""), ("a.txt", b"a"), *pairs([1])])
    good, bad = read_all(tmp_path / "x.tar")
    assert good == ["number 1"] and "x.tar, member a.png: the image is empty" in bad[0]


def test_tars_without_examples_are_refused(shards):
    with pytest.raises(UsageError, match=r"have no member that ends in .jpeg, .caption"):
        TarShards(shards=shards.shards, image=("jpeg",), text="caption").open()


# Metadata


def test_metadata_columns(tmp_path):
    members = [
        ("a.json", b'{"score": 0.5, "license": "by"}'),
        ("b.json", b'{"score": 2}'),
        ("d.json", b"{broken"),
        ("only.json", b'{"score": 9}'),  # no example
    ]
    write(tmp_path / "x.tar", [(f"{key}.txt", key.encode()) for key in "abcd"] + members)
    examples = TarShards(shards=f"{tmp_path}/x.tar", image=()).open()
    np.testing.assert_array_equal(examples.column("score"), [0.5, 2, np.nan, np.nan])
    assert examples.column("license") == ["by", "", "", ""]
    with pytest.raises(UsageError, match=r"no column 'scores'; did you mean score\? there are: "):
        examples.column("scores")


def test_indices_in_memory_are_bounded(shards, monkeypatch):
    monkeypatch.setattr(tar_examples, "CACHED_BYTES", 1)
    examples = shards.open()
    assert [examples[n]["text"] for n in (0, 12, 6, 1)] == ["number 0", "number 12", "number 6", "number 1"]
    assert len(examples._cached) == 1


@pytest.mark.parametrize(
    ("members", "fields", "message"),
    [
        (
            ("jpg", "json"),
            {},
            r"ends in .txt, of which text is read; there are: .jpg, .json; a .json holds caption, url,",
        ),
        (("jpg", "caption"), {}, r"ends in .txt, of which text is read; there are: .caption, .jpg\. Name its ending"),
        (
            ("txt", "json"),
            {},
            r"ends in .jpg or .jpeg or .png or .webp, of which image is read; there are: .json, .txt; a",
        ),
        (("jpg", "txt"), {"label": "cls"}, r"ends in .cls, of which label is read; there are: .jpg, .txt"),
        (("jpg", "txt"), {"captions": ("alt", "txt")}, r"ends in .alt, of which alt is read"),
    ],
)
def test_part_that_no_member_has_is_refused(tmp_path, members, fields, message):
    contents = {"jpg": picture(1), "json": b'{"caption": "a cat", "url": "https://x"}'}
    files = [(f"{n}.{ending}", contents.get(ending, b"1")) for n in range(3) for ending in members]
    source = TarShards(shards=str(write(tmp_path / "x.tar", files)), image_size=4, **fields)
    with pytest.raises(UsageError, match=message):
        source.open()
    assert len(TarShards(shards=source.shards, image=("jpg", "txt"), text="", image_size=4).open()) == 3
