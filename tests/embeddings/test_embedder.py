"""On a mesh, embeddings are those of one device; what cannot be read is left out, and the others keep their keys."""

import tracemalloc

import jax
import numpy as np
import pytest

from jaxrep.data.source import Examples
from jaxrep.data.sources.embedding_files import KEY_LENGTH, short_key
from jaxrep.data.sources.text_lines import TextLines
from jaxrep.embeddings.embed_source import embed_source
from jaxrep.embeddings.embedder import Embedder
from jaxrep.errors import BadSample, BadShard
from jaxrep.mesh import Mesh
from jaxrep.model import Model
from tests.helpers.harness import RECIPE, drawn, traced

TRACED = traced(RECIPE)
EXAMPLES = RECIPE.data.train.open()
TOKENIZER = RECIPE.data.tokenizer.load(EXAMPLES.column("text"))


def model(seed=0):
    arrays = {path: jax.device_put(value) for path, value in drawn(TRACED.arrays, seed).items()}
    return Model(TRACED.structure, arrays, TRACED.fields, TOKENIZER, block_size=8)


class Damaged(Examples):
    """The examples, of which some cannot be read; one belongs to a shard that is gone."""

    def __init__(self, *bad, gone=None):
        self._bad, self._gone = bad, gone

    def __len__(self):
        return len(EXAMPLES)

    def __getitem__(self, index):
        if index in self._bad:
            raise BadSample(f"x.tar, member {index}", "the image cannot be decoded (by chance)")
        if index == self._gone:
            raise BadShard("y.tar is gone")
        return EXAMPLES[index]

    def shard(self, index):
        return "x.tar"


@pytest.fixture(scope="module")
def plain():
    rows = {"image": EXAMPLES.column("image"), **model().tokenize(EXAMPLES.column("text"))}
    return model().encode(rows, ("image", "text"))


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(fsdp=2, min_shard_size=1), Mesh(data=4, fsdp=2, min_shard_size=1)])
def test_embeddings_on_a_mesh_equal_one_device(plain, mesh):
    laid = model().shard(mesh)
    split = [array for array in laid._arrays.values() if not array.is_fully_replicated]
    assert bool(split) == (mesh.fsdp > 1) and all(array.sharding.num_devices == 8 for array in split)
    found, report = Embedder(laid, EXAMPLES, ("image", "text"))(range(32))
    assert found is not None and (report.rows, report.bad_rows) == (32, 0)
    for name in ("image", "text"):
        np.testing.assert_allclose(found[name], plain[name], rtol=0, atol=5e-7)  # sums in another order, of float32


def test_bad_examples_are_skipped_and_others_keep_their_keys(plain):
    done = []
    found, report = Embedder(model(), Damaged(3, 8, 9, 10, 11, 12, 13, 14, 15, 30), ("image",))(
        range(2, 31), done.append
    )
    kept = [2, 4, 5, 6, 7, *range(16, 30)]
    assert found is not None and found["index"].tolist() == kept and found["key"].tolist() == list(map(str, kept))
    np.testing.assert_allclose(found["image"], plain["image"][kept], rtol=0, atol=5e-7)
    assert (report.rows, report.bad) == (29, {("x.tar", "the image cannot be decoded"): 10})
    assert report.examples[0] == "x.tar, member 3: the image cannot be decoded (by chance)" and sum(done) == 29
    nothing, report = Embedder(model(), Damaged(0, 1), ("image",))(range(2))
    assert nothing is None and report.bad_rows == report.rows == 2


def test_missing_shard_is_an_error():
    with pytest.raises(BadShard, match=r"y\.tar is gone"):
        Embedder(model(), Damaged(gone=20), ("image",))(range(32))


def test_digest_is_independent_of_sharding():
    digest = model().digest()
    assert model().shard(Mesh(fsdp=2, min_shard_size=1)).digest() == digest
    other = model()
    other.tokenizer = None
    assert len({digest, model(seed=1).digest(), other.digest()}) == 3


def test_one_long_text_costs_its_own_length(tmp_path):
    """An array of strings is as wide as its longest: 5,000 texts and one of 100,000 characters would take 2 GB."""
    lines = [*(f"text {n}" for n in range(5_000)), "long " * 20_000]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    source, wide = TextLines(path=f"{tmp_path}/a.txt"), model()
    wide.block_size = 1024
    wide.encode_text(["a"])
    tracemalloc.start()
    found = embed_source(wide, source)
    assert embed_source(wide, source, f"{tmp_path}/a.npz")["rows"] == 5_001
    np.testing.assert_array_equal(wide.encode_text(lines), found["text"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6 and (tmp_path / "a.npz").stat().st_size < 20e6
    assert found["key"][:2].tolist() == lines[:2] and found["key"][-1].startswith("long long")


def test_long_keys_stay_distinct_and_short_ones_stay():
    keys = ["a" * KEY_LENGTH, "a" * (KEY_LENGTH + 1), "a" * 300 + "b", "a" * 300 + "c", "e/é 猫.png"]
    short = [short_key(key) for key in keys]
    assert len(set(short)) == len(keys) and max(map(len, short)) == KEY_LENGTH
    assert (short[0], short[-1]) == (keys[0], keys[-1])
    assert short_key("\udce9.jpg") == "\\udce9.jpg", "names of files that are not Unicode become valid text"
