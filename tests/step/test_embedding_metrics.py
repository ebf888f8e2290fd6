"""The health panel equals its definitions, written out in float64, whatever the blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.mesh import ROWS, Mesh
from jaxrep.metrics.geometry import effective_rank
from jaxrep.step.embedding_metrics import embedding_metrics

measured = jax.jit(embedding_metrics, static_argnames="block_size")


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def embeddings(rows=13, width=5, seed=0):
    random = np.random.default_rng(seed)
    a = unit(random.normal(size=(rows, width)) + 0.5)
    return a, unit(a + random.normal(size=(rows, width)))


def oracle(a, b, ids):
    n = len(a)

    def near(x):
        return [np.exp(-2 * ((x[i] - x[j]) ** 2).sum()) for i in range(n) for j in range(i)]

    def alike(i, j):
        return i == j or any(each[i] == each[j] for each in ids)

    hardest = [max((a[i] @ b[j] for j in range(n) if not alike(i, j)), default=None) for i in range(n)]
    hardest += [max((a[i] @ b[j] for i in range(n) if not alike(i, j)), default=None) for j in range(n)]
    return {
        "alignment": np.mean(((a - b) ** 2).sum(1)),
        "uniformity_a": np.log(np.mean(near(a))),
        "uniformity_b": np.log(np.mean(near(b))),
        "modality_gap": np.linalg.norm(a.mean(0) - b.mean(0)),
        "effective_rank_a": rankme(a),
        "effective_rank_b": rankme(b),
        "positive_similarity": np.mean((a * b).sum(1)),
        "hardest_negative_similarity": np.mean([x for x in hardest if x is not None]),
    }


def rankme(x):
    singular = np.linalg.svd(x, compute_uv=False)
    share = singular / singular.sum() + 1e-7
    return np.exp(-(share * np.log(share)).sum())


IDS = (np.array([0, 1, 2, 0, 3, 4, 5, 6, 7, 7, 8, 9, 9]), np.array([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 0]))


@pytest.mark.parametrize("ids", [(), IDS[:1], IDS], ids=["none", "pictures", "pictures and names"])
@pytest.mark.parametrize("block_size", [4, 13, 1024])
def test_every_measure_equals_its_definition_in_any_blocks(ids, block_size):
    a, b = embeddings()
    found = measured(jnp.float32(a), jnp.float32(b), ids, block_size=block_size)
    expected = oracle(a, b, ids)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # float32; the singular values come from a Gram matrix, which has half their digits
        np.testing.assert_allclose(found[name], value, rtol=1e-4 if "rank" in name else 5e-6, err_msg=name)


def test_rows_without_a_negative_do_not_enter_the_hardest():
    a, b = embeddings(rows=4)
    first = np.array([0, 0, 0, 1])
    second = np.array([0, 1, 2, 0])  # row 0 is alike to every row by one or the other
    found = measured(jnp.float32(a), jnp.float32(b), (first, second))
    expected = oracle(a, b, (first, second))["hardest_negative_similarity"]
    np.testing.assert_allclose(found["hardest_negative_similarity"], expected, rtol=5e-6)


def test_effective_rank_counts_equal_directions_and_not_rounding_noise():
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.normal(size=(64, 64)))[0]
    for rank in (1, 7, 64):
        # Each of the directions equally often: all singular values that are not zero are equal.
        x = jnp.float32(np.tile(basis[:rank], (64 // rank + 1, 1))[: 64 // rank * rank])
        np.testing.assert_allclose(effective_rank(x), rank, rtol=1e-4)


def test_a_collapsed_pair_shows():
    same = jnp.tile(jnp.float32([[0.6, 0.8, 0.0]]), (8, 1))
    found = measured(same, same)
    np.testing.assert_allclose(found["uniformity_a"], 0, atol=1e-6)  # its best value for spread rows is below -2
    np.testing.assert_allclose(found["effective_rank_a"], 1, atol=1e-4)
    np.testing.assert_allclose(found["hardest_negative_similarity"], 1, atol=1e-6)


def test_memory_is_linear_in_the_batch():
    rows, block_size = 8192, 64
    x = jax.ShapeDtypeStruct((rows, 16), jnp.float32)
    analysis = measured.lower(x, x, block_size=block_size).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 8 * block_size * rows * 4 < rows * rows * 4 / 10


def test_a_mesh_gives_the_same_measures():
    a, b = (jnp.float32(x) for x in embeddings(rows=32))
    ids = (jnp.arange(32) // 2,)
    mesh = Mesh(fsdp=2).build()
    rows = jax.NamedSharding(mesh, ROWS)
    with jax.set_mesh(mesh):
        spread = measured(*jax.device_put((a, b, ids), rows), block_size=3)
    for name, value in measured(a, b, ids, block_size=16).items():
        np.testing.assert_allclose(spread[name], value, rtol=1e-5, err_msg=name)  # float32 sums in another order
