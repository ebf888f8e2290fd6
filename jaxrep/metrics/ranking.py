"""Exact ranks among any number of candidates: strict, in blocks, at the speed of float32.

The definition is in float64: embeddings are float32, so products are exact, and candidates with equal embeddings tie
for any order of the sums. Blocks of similarities are float32 products; only the few within the rounding error of a
threshold are computed again in float64, so that the counts are those of the definition.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int, Shaped
from threadpoolctl import threadpool_limits

from jaxrep.data._util.parallel import usable_cores
from jaxrep.errors import JaxrepError

TIE = 1e-12
"""Similarities this close are equal: far above the rounding of float64 sums, far below that of float32 embeddings."""
BLOCK_SIZE = 2048
SPARSE = 0.01
"""Share of a block up to which its entries are processed one by one; beyond it, all at once is faster."""

NO_RANK = np.iinfo(np.int64).max
"""Rank of a positive that does not exist."""

Queries = Float[np.ndarray, "Q D"]
Gallery = Float[np.ndarray, "G D"]
Ranks = Int[np.ndarray, "Q P"]
Grades = Int[np.ndarray, " E"] | None
IndexPairs = tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]
"""(query, candidate) indices of all positives, each pair once."""


def best_ranks(
    queries: Queries, gallery: Gallery, positives: IndexPairs, *, block_size: int = BLOCK_SIZE
) -> Int[np.ndarray, " Q"]:
    """Return the rank of the best positive of each query: 1 plus the negatives that are at least as similar.

    Raises ValueError: a query has no positive.
    """
    missing = np.flatnonzero(np.bincount(positives[0], minlength=len(queries)) == 0)
    if len(missing):
        raise ValueError(f"query {missing[0]} has no positive, so it has no rank")
    return positive_ranks(queries, gallery, positives, 1, block_size=block_size)[:, 0]


def positive_ranks(
    queries: Queries, gallery: Gallery, positives: IndexPairs, k: int, *, block_size: int = BLOCK_SIZE
) -> Ranks:
    """Return the ranks, from 1, of the k best positives of each query, the best first; then ``NO_RANK``.

    A negative that is as similar as a positive ranks before it.

    Args:
        queries, gallery: embeddings, compared by their dot product; a gallery may be a memory map.
        positives: the pairs of queries and their positives.
        k: the number of positives; P is k, or the largest number of positives of any query if that is less.
        block_size: queries, candidates or positives per block; memory is ``block_size**2`` float32 numbers per core.

    Raises:
        JaxrepError: an embedding is not finite.
    """
    return graded_ranks(queries, gallery, positives, None, k, block_size=block_size)[0]


def graded_ranks(
    queries: Queries, gallery: Gallery, positives: IndexPairs, grades: Grades, k: int, *, block_size: int = BLOCK_SIZE
) -> tuple[Ranks, Ranks]:
    """Return ``positive_ranks``, and the grades of these positives, 0 after the last.

    Args:
        grades: relevance of each pair, from 1; 0 removes a candidate from the ranking of this query. Of equally similar
            ones the less relevant come first. None: all are 1.
    """
    require_finite(queries, lambda i: f"query {i}")
    require_finite(gallery, lambda i: f"candidate {i}")
    grades = np.ones(len(positives[0]), np.int64) if grades is None else grades
    similarity = _similarities(queries, gallery, positives, block_size)
    order = np.lexsort((grades, -similarity, positives[0]))
    query, similarity, grades = positives[0][order], similarity[order], grades[order]
    relevant = grades > 0
    counts = np.bincount(query, relevant, len(queries)).astype(np.int64)
    index = np.cumsum(relevant) - 1 - (np.cumsum(counts) - counts)[query]
    best = relevant & (index < k)
    own_pairs = _own_pairs_at_least(query, similarity)[best]
    query, index = query[best], index[best]
    negatives = count_at_least(queries[query], gallery, similarity[best] - TIE, block_size=block_size) - own_pairs
    shape = len(queries), min(k, counts.max(initial=0))
    ranks, rank_grades = np.full(shape, NO_RANK), np.zeros(shape, np.int64)
    ranks[query, index], rank_grades[query, index] = 1 + index + negatives, grades[best]
    return ranks, rank_grades


def average_precision(ranks: Ranks, k: int) -> Float[np.ndarray, " Q"]:
    """Return the average precision at k of each query; a query without positives has 0.

    It is the mean of the precisions at the ranks of the positives, 0 for ranks above k, over as many positives as k
    ranks can hold.

    Args:
        ranks: those of the k best positives, or of more.
    """
    ranks = ranks[:, :k]
    precision = np.where(ranks <= k, np.arange(1, ranks.shape[1] + 1) / ranks, 0)
    return precision.sum(axis=1) / np.maximum((ranks != NO_RANK).sum(axis=1), 1)


def count_at_least(
    queries: Queries, gallery: Gallery, thresholds: Float[np.ndarray, " Q"], *, block_size: int = BLOCK_SIZE
) -> Int[np.ndarray, " Q"]:
    """Count the candidates of each query with a similarity of at least its threshold, in float64 sums."""
    counts = np.zeros(len(queries), np.int64)
    # One thread per core, each with its own block: products and comparisons use all cores.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(usable_cores()) as pool:
        for rows in row_blocks(len(queries), block_size):
            block = functools.partial(_count, queries[rows], thresholds=thresholds[rows])
            for block_counts in pool.map(block, (gallery[part] for part in row_blocks(len(gallery), block_size))):
                counts[rows] += block_counts
    return counts


def equal_pairs(left: Shaped[np.ndarray, " Q"], right: Shaped[np.ndarray, " G"]) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (i, j) of all pairs with ``left[i] == right[j]``, sorted by i."""
    order = np.argsort(right, kind="stable")
    first = np.searchsorted(right[order], left, "left")
    counts = np.searchsorted(right[order], left, "right") - first
    i = np.repeat(np.arange(len(left)), counts)
    within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    return i, order[first[i] + within]


def unit_rows(x: Float[np.ndarray, "*N D"]) -> Float[np.ndarray, "*N D"]:
    """Scale rows to unit length, in their own type; a row of zeros stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def require_finite(embeddings: Float[np.ndarray, "N D"], describe: Callable[[int], str]) -> None:
    """Raise JaxrepError for a NaN or infinity: no comparison with it is true, so it would seem to rank first."""
    finite = [np.isfinite(embeddings[part]).all(1) for part in row_blocks(len(embeddings), 4096)]
    bad = np.flatnonzero(~np.concatenate([np.empty(0, bool), *finite]))
    if len(bad):
        raise JaxrepError(
            f"the embedding of {describe(int(bad[0]))} is not finite ({len(bad)} of {len(embeddings)} are not), "
            "so the model cannot be evaluated: look for the step at which training diverged"
        )


def _similarities(queries: np.ndarray, gallery: np.ndarray, pairs: IndexPairs, block_size: int) -> np.ndarray:
    """Return the similarities of pairs, float64 [E]."""
    query, candidate = pairs
    parts = [_products(queries[query[part]], gallery[candidate[part]]) for part in row_blocks(len(query), block_size)]
    return np.concatenate([np.empty(0), *parts])


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ed,ed->e", a.astype(np.float64), b.astype(np.float64))


def _count(queries: np.ndarray, gallery: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Compute ``count_at_least`` for one block."""
    error = _rounding(queries, gallery)
    if not error.max(initial=0) < np.inf:
        return _exact_count(queries, gallery, thresholds)
    low = np.nextafter(np.float32(thresholds - error), np.float32(-np.inf))
    high = np.nextafter(np.float32(thresholds + error), np.float32(np.inf))
    # Candidates by queries: comparisons then run along the thresholds.
    similarity = np.asarray(gallery, np.float32) @ np.asarray(queries, np.float32).T
    reached = similarity >= low
    if np.count_nonzero(reached) <= SPARSE * reached.size:
        index = np.flatnonzero(reached)
        counts = np.bincount(index % len(queries), minlength=len(queries))
        close = index[similarity.ravel()[index] <= high[index % len(queries)]]
    else:
        counts = _count_columns(reached)
        close = np.flatnonzero(np.logical_and(reached, similarity <= high, out=reached))
    if len(close) > SPARSE * reached.size:
        return _exact_count(queries, gallery, thresholds)
    candidate, query = np.divmod(close, len(queries))
    for part in row_blocks(len(query), BLOCK_SIZE):
        missed = _products(queries[query[part]], gallery[candidate[part]]) < thresholds[query[part]]
        counts -= np.bincount(query[part], missed, len(queries)).astype(np.int64)
    return counts


def _count_columns(mask: np.ndarray) -> np.ndarray:
    """Count along axis 0 in bytes, several times faster than ``count_nonzero``: 255 rows at a time do not overflow."""
    ones = mask.view(np.uint8)
    parts = [np.add.reduce(ones[part], axis=0, dtype=np.uint8) for part in row_blocks(len(ones), 255)]
    return np.add.reduce(parts, axis=0, dtype=np.int64)


def _exact_count(queries: np.ndarray, gallery: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return np.count_nonzero(gallery.astype(np.float64) @ queries.astype(np.float64).T >= thresholds, axis=0)


def _rounding(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return a bound on the error of similarities in float32, float64 [Q]; infinite if they may overflow.

    A sum of D products in any order is within ``D u / (1 - D u)`` of the true one, times the norms (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, section 3.1). The bound is ``(D + 2) eps``, more than twice as much,
    for norms and embeddings that are rounded to float32.
    """
    limits, width = np.finfo(np.float32), queries.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
        largest = np.einsum("nd,nd->n", b, b).max(initial=0)
        size = np.sqrt(np.einsum("nd,nd->n", a, a).astype(np.float64) * largest)
    return np.where(size < limits.max / 100, (width + 2) * (limits.eps * size + limits.tiny), np.inf)


def _own_pairs_at_least(query: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Count for each pair the pairs of its query that are at least as similar; sorted by query and similarity.

    It is the position in the query's pairs plus 1, except for ties: a tie ends where similarity falls by more than TIE.
    """
    falls = np.append((np.diff(query) != 0) | (np.diff(similarity) < -TIE), True)
    ends = np.flatnonzero(falls)
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    rows = np.arange(len(query))
    return ends[np.searchsorted(ends, rows)] + 1 - starts[np.searchsorted(starts, rows, "right") - 1]


def row_blocks(total: int, size: int) -> Iterator[slice]:
    """Yield the slices of at most ``size`` rows that cover ``total`` rows."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
