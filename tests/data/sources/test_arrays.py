"""Arrays in .npz shards are read by index, and a fault of a file is one sentence."""

import numpy as np
import pytest

from jaxrep.data.sources.arrays import ArrayShards
from jaxrep.errors import BadShard, UsageError
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
