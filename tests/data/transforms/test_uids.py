"""KeepUids keeps the examples of a file of uids, as a loop over all pairs of uids does."""

import tracemalloc

import numpy as np
import pytest

from jaxrep.data.source import Columns, Examples, Source
from jaxrep.data.sources.parquet import ParquetTable
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms import uids
from jaxrep.data.transforms.subsets import Take
from jaxrep.data.transforms.uids import UID, KeepUids, count_uids, read_uids
from jaxrep.errors import BadShard, UsageError
from jaxrep.spec import spec
from tests.helpers import data_formats as formats
from tests.helpers import img2dataset
from tests.helpers.opened_files import opened_files

pytestmark = pytest.mark.usefixtures("cache")


def kept(folder, array=None, text=None, source=None, column="uid"):
    path = folder / ("uids.npy" if text is None else "uids.txt")
    if text is None:
        np.save(path, np.asarray(array))
    else:
        path.write_text(text)
    source = source or TarShards(shards=f"{folder}/*.tar", text="", image_size=4)
    return KeepUids(source=source, path=str(path), column=column)


@pytest.mark.parametrize("top", [1, 3, 2**64 - 1])
@pytest.mark.parametrize("count", [1, 2, 3, 100, 257])
def test_counts_equal_a_loop(top, count):
    """Also with equal high halves, with repeats, and at both ends of 64 bits."""
    draw = np.random.default_rng(count)
    array = np.zeros(count, UID)
    high, low = (np.array([0, 1, top // 2, top - 1, top], "u8") for top in (top, 2))
    array["f0"], array["f1"] = draw.choice(high, count), draw.choice(low, count)
    queries = np.concatenate([array, array])
    queries["f1"][count:] ^= np.uint64(1)
    array.sort()
    expected = [(array == query).sum() for query in queries]
    np.testing.assert_array_equal(count_uids(array, queries), expected)
    assert count_uids(array, queries[:0]).shape == (0,)


def test_examples_of_a_file_are_kept(tmp_path):
    """Both formats of the file; uids of tables and of members of JSON; the file's other uids do no harm."""
    img2dataset.folder(tmp_path)
    wanted, others = (3, 8, 15, 16, 23), range(100, 150)
    texts = [img2dataset.uid(n) for n in (*wanted, *others)]
    array = img2dataset.uid_array(*wanted, *others)
    expected = [f"{n // 8:05}.tar/{n // 8:05}{n:04}" for n in wanted]
    for source in (
        kept(tmp_path, array),
        kept(tmp_path, text="\n".join(texts).upper() + "\n\n"),
        kept(tmp_path, text="\ufeff" + "\r\n".join(texts)),
    ):
        examples = source.open()
        assert examples.column("key") == expected and examples[1]["image"][0, 0, 0] == 8
        assert examples.shard_ends.tolist() == [1, 3, 5]
    table = ParquetTable(files=f"{tmp_path}/*.parquet", image="", text="caption")
    assert kept(tmp_path, array, source=table).open().column("text") == [
        "number 3",
        "number 8",
        "number 15",
    ]
    whole = kept(tmp_path, array, source=Take(source=examples_of(tmp_path), count=9)).open()
    assert whole.column("uid") == [img2dataset.uid(3), img2dataset.uid(8)]


def examples_of(folder):
    return TarShards(shards=f"{folder}/*.tar", text="", image_size=4)


def test_no_tar_is_opened(tmp_path):
    img2dataset.shard(tmp_path, 0, [img2dataset.row(n, 0) for n in range(8)])
    source = kept(tmp_path, img2dataset.uid_array(5))
    source.open()  # makes the index
    with opened_files() as opened:
        assert len(source.open()) == 1
    assert not [path for path in opened if path.endswith(".tar")]


def test_repeated_uids_repeat_their_examples(tmp_path):
    """As DataComp's resharder writes an example once for each time that the file has it."""
    img2dataset.folder(tmp_path)
    source = kept(tmp_path, img2dataset.uid_array(7, 7, 7, 9))
    examples = source.open()
    assert examples.column("similarity").tolist() == [7 / 16] * 3 + [9 / 16]
    assert examples.shard_ends.tolist() == [3, 4, 4] and examples[2]["key"] == "00000.tar/000000007"


def test_unsorted_and_foreign_bytes_are_sorted_and_told(tmp_path, capsys):
    img2dataset.folder(tmp_path)
    texts = [img2dataset.uid(n) for n in (20, 1, 13)]
    array = np.array([(int(text[:16], 16), int(text[16:], 16)) for text in texts], np.dtype("u8,u8"))
    for made, why in ((array, "not sorted"), (np.sort(array).astype(">u8,>u8"), "of another byte order")):
        assert kept(tmp_path, made).open().column("width").tolist() == [101, 113, 120]
        assert f"uids.npy is {why}" in capsys.readouterr().err
    named = np.sort(array).astype([("high", "u8"), ("low", "u8")])
    assert len(kept(tmp_path, named).open()) == 3 and "not sorted" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("array", "text", "message"),
    [
        (np.zeros(3, "u8"), None, r"holds an array of uint64 \[3\]: expected a .npy array of dtype u8,u8"),
        (np.zeros((3, 2), "u8"), None, r"holds an array of uint64 \[3, 2\]: expected"),
        (np.zeros(3, "u8,u4"), None, r"expected a .npy array of dtype u8,u8"),
        (np.zeros(3, "i8,i8"), None, r"expected a .npy array of dtype u8,u8"),
        (np.zeros((2, 2), "u8,u8"), None, r"\[2, 2\]: expected a .npy array"),
        (np.array(["a" * 32]), None, r"holds an array of <U32 \[1\]: expected"),
        (np.zeros(0, "u8,u8"), None, r"uids.npy has no uid"),
        (None, "\n \n", r"uids.txt has no uid"),
        (None, f"{'a' * 32}\n{'b' * 31}\n", r"uids.txt, line 2 is no uid but 'bbb.*expected a .npy array"),
        (None, "uid,url\n", r"uids.txt, line 1 is no uid but 'uid,url'"),
        (None, f"{'٣' * 32}", r"line 1 is no uid"),
        (None, f"{img2dataset.uid(99)}\n", r"none of the uids in the column 'uid' of 24 examples: the first is 0{32}"),
    ],
)
def test_other_files_are_refused(tmp_path, array, text, message):
    img2dataset.folder(tmp_path)
    with pytest.raises(UsageError, match=message):
        kept(tmp_path, array, text).open()


def test_other_files_and_columns_are_one_sentence(tmp_path, capsys):
    img2dataset.folder(tmp_path)
    array = img2dataset.uid_array(*range(4))
    with pytest.raises(UsageError, match=r"column 'similarity' holds numbers, as 0, and uids are texts of 32 hex"):
        kept(tmp_path, array, column="similarity").open()
    with pytest.raises(UsageError, match=r"none of the uids in the column 'caption' of 24 examples: none of them"):
        kept(tmp_path, array, column="caption").open()
    with pytest.raises(UsageError, match=r"no column 'uuid'; did you mean uid\?"):
        kept(tmp_path, array, column="uuid").open()
    source = kept(tmp_path, array)
    path = tmp_path / "uids.npy"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UsageError, match=r"uids.npy ends after 61 of the 64 bytes of its uids"):
        source.open()
    path.write_bytes(b"\x93NUMPY broken")
    with pytest.raises(UsageError, match=r"uids.npy is no array that can be read"):
        source.open()
    path.unlink()
    with pytest.raises(BadShard, match=r"uids.npy cannot be read \(No such file"):
        source.open()
    rows = [{"text": "a", "uid": img2dataset.uid(1)}, {"text": "b", "uid": None}, {"text": "c", "uid": "none"}]
    formats.parquet(tmp_path / "t.parquet", rows)
    table = ParquetTable(files=f"{tmp_path}/t.parquet", image="")
    capsys.readouterr()
    assert kept(tmp_path, array, source=table).open().column("text") == ["a"]
    assert "2 of 3 examples have no uid of 32 hexadecimal digits in the column 'uid'" in capsys.readouterr().err


class Parts(Columns):
    """Gives a column in parts, as shards do."""

    def column_parts(self, name):
        yield from (self._columns[name][start : start + 1000] for start in range(0, len(self), 1000))


@spec
class Pool(Source):
    """A pool of 100,000 uids."""

    def open(self) -> Examples:
        return Parts({"uid": [img2dataset.uid(n) for n in range(100_000)]})

    def fields(self):
        return {}


def test_memory_is_that_of_a_part(tmp_path, monkeypatch):
    """The file of 32 MB is mapped; of the pool, one part's strings and the kept indices are held."""
    draw = np.random.default_rng(0)
    array = np.zeros(2_000_000, UID)
    array["f0"], array["f1"] = draw.integers(0, 2**63, (2, len(array))).astype("u8")
    array[:5000] = img2dataset.uid_array(*range(0, 100_000, 20))
    array = array[np.lexsort((array["f1"], array["f0"]))]
    path = tmp_path / "uids.npy"
    np.save(path, array)
    del array
    examples, source = Pool().open(), KeepUids(source=Pool(), path=str(path))
    monkeypatch.setattr(uids, "BLOCK", 2**16)
    tracemalloc.start()
    indices = source.indices(examples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(indices, np.arange(0, 100_000, 20))
    assert isinstance(read_uids(str(path)), np.memmap) and peak < 6 * 2**20
