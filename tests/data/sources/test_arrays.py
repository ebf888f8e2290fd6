"""Arrays in .npz shards are read by index, and a fault of a file is one sentence."""

import zipfile

import numpy as np
import pytest

from jaxrep import npy
from jaxrep.data.sources.arrays import ArrayShards
from jaxrep.errors import BadShard, UsageError
from jaxrep.metrics import sample
from jaxrep.spec import problems

SHAPES = {"series": (4, 2), "size": ()}


@pytest.fixture
def shards(tmp_path):
    random = np.random.default_rng(0)
    every = {"series": random.normal(size=(7, 4, 2)), "size": np.arange(7)}
    for number, rows in enumerate((slice(0, 3), slice(3, 7))):
        np.savez(tmp_path / f"{number}.npz", other=np.ones(2), **{name: x[rows] for name, x in every.items()})
    return tmp_path, every


def source(folder, **changes):
    return ArrayShards(
        **{"shards": str(folder / "{0..1}.npz"), "shapes": SHAPES, "kinds": {"size": "int32"}, **changes}
    )


def test_rows_follow_shards_in_declared_types(shards):
    folder, every = shards
    examples = source(folder).open()
    assert len(examples) == 7 and list(examples.shard_ends) == [3, 7] and examples.shard(3).endswith("1.npz")
    rows = examples.gather(np.array([5, 0, 2]))
    np.testing.assert_array_equal(rows["series"], every["series"][[5, 0, 2]].astype(np.float32))
    np.testing.assert_array_equal(examples.column("size"), np.arange(7))


def test_unfit_files_are_reported(shards):
    folder, every = shards
    with pytest.raises(UsageError, match=r"0.npz has no array 'sires'"):
        source(folder, shapes={"sires": ()}, kinds={}).open()
    with pytest.raises(UsageError, match=r"0.npz: 'series' of an example has shape \(4, 2\), not \(4, 3\)"):
        source(folder, shapes={"series": (4, 3)}, kinds={}).open()
    np.savez(folder / "1.npz", series=every["series"], size=np.arange(3))
    with pytest.raises(UsageError, match=r"1.npz: the arrays are of different lengths"):
        source(folder).open()
    (folder / "1.npz").write_bytes((folder / "0.npz").read_bytes()[:200])
    with pytest.raises(UsageError, match=r"1.npz is no .npz file that can be read"):
        source(folder).open()
    assert problems(source(folder, kinds={"size": "float64"})) and problems(source(folder, shapes={}, kinds={}))


def test_damaged_shard_is_a_bad_shard(shards):
    folder, _ = shards
    examples = source(folder).open()
    (folder / "1.npz").write_bytes(b"gone")
    assert examples[0]["size"] == 0
    with pytest.raises(BadShard, match=r"1.npz cannot be read"):
        examples[4]


def test_sizes_inside_archives_are_checked_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "MAX_UNPACKED", 2**26)
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2**25, np.float32))
    with pytest.raises(BadShard, match=r"cannot be read: its arrays take 0.125 GiB, more than 0.0625: split it"):
        ArrayShards(shards=f"{tmp_path}/bomb.npz", shapes={"a": ()}).open()[0]
    with pytest.raises(UsageError, match=r"bomb.npz is damaged.* its arrays take 0.125 GiB"):
        sample.read(tmp_path / "bomb.npz")


@pytest.mark.parametrize("shape", [(2**40,), (2**62, 2**62), (3 * 2**28,)])
def test_size_in_a_header_takes_no_memory(tmp_path, shape):
    """A header may tell more than the file holds."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("a.npy", "w") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with pytest.raises(ValueError):
        npy.read_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("at", range(0, 700, 53))
def test_flipped_bytes_are_reported(tmp_path, at):
    """Check that damage anywhere, in compressed arrays and their headers, is an error of the shard."""
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[at % len(content)] ^= 0xFF
    (tmp_path / "x.npz").write_bytes(content)
    try:
        assert ArrayShards(shards=f"{tmp_path}/x.npz", shapes={"x": (2,)}).open()[3]["x"].shape == (2,)
    except (UsageError, BadShard) as error:
        assert "x.npz" in str(error)
