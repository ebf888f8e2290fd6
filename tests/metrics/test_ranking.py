"""Check that ranks are exact and strict, in blocks of any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrep.errors import JaxrepError
from jaxrep.metrics import ranking as module
from jaxrep.metrics.ranking import (
    TIE,
    average_precision,
    best_ranks,
    count_at_least,
    equal_pairs,
    positive_ranks,
    unit_rows,
)


def oracle(queries, gallery, right):
    """Return the rank of the best positive; ``right``: a set of (query, candidate)."""
    similarity = queries.astype(np.float64) @ gallery.astype(np.float64).T
    found = []
    for q, row in enumerate(similarity):
        best = max(s for g, s in enumerate(row) if (q, g) in right)
        found.append(1 + sum(s >= best - 1e-12 for g, s in enumerate(row) if (q, g) not in right))
    return found


def edges(right):
    return tuple(np.array(sorted(right)).T)


@pytest.mark.parametrize("block_size", [1, 3, 1000])
def test_best_ranks_equal_counting_with_ties(block_size):
    random = np.random.default_rng(0)
    # Few distinct vectors, so that about a third of all comparisons are ties, also of right with wrong candidates.
    vectors = random.normal(size=(4, 7)).astype(np.float32)
    queries, gallery = vectors[random.integers(4, size=11)], vectors[random.integers(4, size=17)]
    right = {(q, int(g)) for q in range(11) for g in random.choice(17, 1 + q % 3, replace=False)}
    assert best_ranks(queries, gallery, edges(right), block_size=block_size).tolist() == oracle(queries, gallery, right)


def test_best_ranks_equal_counting_on_random_embeddings():
    random = np.random.default_rng(1)
    queries, gallery = (random.normal(size=(n, 16)).astype(np.float32) for n in (40, 60))
    right = {(q, q) for q in range(40)}
    found = best_ranks(queries, gallery, edges(right), block_size=7)
    assert found.tolist() == oracle(queries, gallery, right)
    assert len(set(found.tolist())) > 15


@pytest.mark.parametrize("width", [3, 64, 511])
def test_equal_embeddings_rank_last(width):
    vector = np.random.default_rng(0).normal(size=width).astype(np.float32)
    same = np.tile(vector / np.linalg.norm(vector), (37, 1))
    assert best_ranks(same, same, (np.arange(37), np.arange(37)), block_size=10).tolist() == [37] * 37


def test_unit_rows_keep_dtype_and_zeros():
    for kind in (np.float32, np.float64):
        found = unit_rows(np.array([[3, 4], [0, 0]], kind))
        assert found.dtype == kind
        np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], rtol=1e-6)  # float32


def test_positives_do_not_compete():
    query, gallery = np.float32([[1, 0]]), np.float32([[0.6, 0.8], [1, 0], [0.8, 0.6], [0, 1]])
    assert best_ranks(query, gallery, edges({(0, 0), (0, 1), (0, 2)})).tolist() == [1]
    assert best_ranks(query, gallery, edges({(0, 0), (0, 2)})).tolist() == [2]
    assert best_ranks(query, gallery, edges({(0, 0)})).tolist() == [3]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_embedding_is_named(bad):
    good, broken = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    broken[2, 1] = bad
    own = (np.arange(3), np.arange(3))
    with pytest.raises(JaxrepError, match="query 2 is not finite"):
        best_ranks(broken, good, own)
    with pytest.raises(JaxrepError, match="candidate 2 is not finite"):
        best_ranks(good, broken, own)


def test_query_without_positive_is_an_error():
    with pytest.raises(ValueError, match="query 1 has no positive"):
        best_ranks(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), (np.array([0]), np.array([0])))


def test_equal_pairs_are_complete():
    random = np.random.default_rng(0)
    left, right = random.integers(5, size=9), random.integers(1, 6, size=12)
    expected = [(i, j) for i in range(9) for j in range(12) if left[i] == right[j]]
    assert sorted(zip(*equal_pairs(left, right), strict=True)) == expected
    assert [len(part) for part in equal_pairs(np.array([7]), right)] == [0, 0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.integers(1, 40),
    ulps=st.integers(0, 3),
    exponent=st.sampled_from([0, 0, 0, -25, 15, 22]),
    block_size=st.integers(1, 60),
    kind=st.sampled_from([np.float32, np.float32, np.float16, np.float64]),
)
def test_counts_equal_float64_near_thresholds(seed, width, ulps, exponent, block_size, kind):
    random = np.random.default_rng(seed)
    centers = random.normal(size=(5, width)).astype(np.float32)
    gallery = centers[random.integers(5, size=50)]
    for _ in range(ulps):  # candidates whose similarities differ by far less than float32 products do
        gallery = np.nextafter(gallery, gallery + random.integers(-1, 2, size=gallery.shape), dtype=np.float32)
    queries = np.concatenate([centers, random.normal(size=(8, width))])
    exponent = 0 if kind is np.float16 else exponent
    queries, gallery = ((x * 10.0**exponent).astype(kind) for x in (queries, gallery))
    similarity = queries.astype(np.float64) @ gallery.astype(np.float64).T
    thresholds = similarity[np.arange(13), random.integers(50, size=13)] - TIE * 10.0 ** (2 * exponent)
    expected = (similarity >= thresholds[:, None]).sum(axis=1)
    if exponent == -25:  # all are equal there: no bar is told apart from another by more than TIE
        thresholds, expected = np.full(13, -TIE), np.full(13, 50)
    assert count_at_least(queries, gallery, thresholds, block_size=block_size).tolist() == expected.tolist()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_sparse_and_dense_blocks_count_the_same(monkeypatch, share):
    """One by one, at once, and all in float64: which is taken is a matter of speed."""
    monkeypatch.setattr(module, "SPARSE", share)
    random = np.random.default_rng(2)
    gallery = random.normal(size=(300, 5)).astype(np.float32)[random.integers(300, size=700)]
    queries = random.normal(size=(40, 5)).astype(np.float32)
    similarity = queries.astype(np.float64) @ gallery.astype(np.float64).T
    thresholds = np.quantile(similarity, 0.7, axis=1) - TIE
    expected = (similarity >= thresholds[:, None]).sum(axis=1)
    np.testing.assert_array_equal(count_at_least(queries, gallery, thresholds), expected)


@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("distinct", [4, 30])
def test_average_precision_equals_definition(k, distinct):
    random = np.random.default_rng(3)
    vectors = random.normal(size=(distinct, 6)).astype(np.float32)
    queries, gallery = vectors[random.integers(distinct, size=9)], vectors[random.integers(distinct, size=25)]
    right = {(q, int(g)) for q in range(8) for g in random.choice(25, 1 + q, replace=False)}  # the last one has none
    similarity = queries.astype(np.float64) @ gallery.astype(np.float64).T
    expected = []
    for q in range(9):
        # Among equally similar ones the wrong come first.
        order = sorted(range(25), key=lambda g: (-round(similarity[q, g], 9), (q, g) in right))
        hits = [(q, g) in right for g in order]
        total = sum(np.mean(hits[: i + 1]) for i in range(min(k, 25)) if hits[i])
        expected.append(total / max(min(k, sum(hits)), 1))
    found = average_precision(positive_ranks(queries, gallery, edges(right), k, block_size=7), k)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[-1] == 0
    assert k == 1 or 0 < found.mean() < 1


def test_candidate_of_grade_0_is_removed():
    random = np.random.default_rng(4)
    vectors = random.normal(size=(9, 4)).astype(np.float32)
    queries, gallery = vectors[:6], vectors[random.integers(9, size=20)]  # with ties
    right = {
        (q, int(g)): int(grade)
        for q in range(6)
        for g, grade in zip(random.permutation(20), [2, 1, 3, 0], strict=False)
    }
    pairs = edges(right)
    grades = np.array([right[pair] for pair in zip(*(part.tolist() for part in pairs), strict=True)])
    found, rank_grades = module.graded_ranks(queries, gallery, pairs, grades, 3)
    for q in range(6):
        kept = [g for g in range(20) if right.get((q, g)) != 0]
        own = {g: grade for (query, g), grade in right.items() if query == q and grade}
        similarity = {g: round(float(queries[q].astype(np.float64) @ gallery[g].astype(np.float64)), 9) for g in kept}
        order = sorted(kept, key=lambda g: (-similarity[g], own.get(g, 0)))
        expected = [(1 + i, own[g]) for i, g in enumerate(order) if g in own]
        assert [*zip(found[q].tolist(), rank_grades[q].tolist(), strict=True)] == expected
