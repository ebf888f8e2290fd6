"""Exact ranks among any number of candidates, counted strictly, in blocks, at the speed of float32.

The definition is float64: embeddings are float32, so products are exact, and candidates whose embeddings are equal tie
however a matrix product orders its sums. Blocks of similarities are float32 products; of those, only the few within
the rounding error of the bar are computed again in float64, so that the counts are those of the definition.
"""

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float, Int, Shaped
from threadpoolctl import threadpool_limits

from jaxrep.errors import JaxrepError

TIE = 1e-12
"""Similarities this close are equal: far above the rounding of float64 sums, far below that of float32 embeddings."""
BLOCK_SIZE = 2048
FEW = 0.01
"""The share of a block up to which its entries are looked at one by one; beyond, all at once is quicker."""

NEVER = np.iinfo(np.int64).max
"""The place of a right candidate that does not exist."""

Pairs = tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]
"""(query, candidate) indices of all right pairs, each pair once."""


def ranks(
    queries: Float[np.ndarray, "Q D"],
    gallery: Float[np.ndarray, "G D"],
    positives: Pairs,
    *,
    block_size: int = BLOCK_SIZE,
) -> Int[np.ndarray, " Q"]:
    """Rank of each query's best right candidate: one more than the wrong ones that are as similar as it or more.

    As ``places`` of the first right one; every query must have one, else ValueError.
    """
    missing = np.flatnonzero(np.bincount(positives[0], minlength=len(queries)) == 0)
    if len(missing):
        raise ValueError(f"query {missing[0]} has no right candidate, so it has no rank")
    return places(queries, gallery, positives, 1, block_size=block_size)[:, 0]


def places(
    queries: Float[np.ndarray, "Q D"],
    gallery: Float[np.ndarray, "G D"],
    positives: Pairs,
    k: int,
    *,
    block_size: int = BLOCK_SIZE,
) -> Int[np.ndarray, "Q P"]:
    """Places in the ranking, from 1, of each query's k best right candidates, the best first; then ``NEVER``.

    A wrong candidate that is as similar as a right one stands before it.

    Args:
        queries, gallery: embeddings, compared by their dot product; a gallery may be a memory map.
        positives: which candidates are right.
        k: at most so many are looked for; P is k, or the most right candidates of any query if that is less.
        block_size: queries, candidates or positives looked at together; memory is ``block_size**2`` float32 numbers a
            core.

    Raises:
        JaxrepError: an embedding is not finite; it is named by its row.
    """
    return graded_places(queries, gallery, positives, None, k, block_size=block_size)[0]


def graded_places(
    queries: Float[np.ndarray, "Q D"],
    gallery: Float[np.ndarray, "G D"],
    positives: Pairs,
    grades: Int[np.ndarray, " E"] | None,
    k: int,
    *,
    block_size: int = BLOCK_SIZE,
) -> tuple[Int[np.ndarray, "Q P"], Int[np.ndarray, "Q P"]]:
    """``places``, and the grades of these candidates, 0 after the last.

    Args:
        grades: how right each pair is, from 1; 0 for a candidate that is taken out of this query's ranking. Of equally
            similar ones the less right come first. None: all are 1.
    """
    require_finite(queries, lambda i: f"query {i}")
    require_finite(gallery, lambda i: f"candidate {i}")
    grades = np.ones(len(positives[0]), np.int64) if grades is None else grades
    similarity = _similarities(queries, gallery, positives, block_size)
    order = np.lexsort((grades, -similarity, positives[0]))
    query, similarity, grades = positives[0][order], similarity[order], grades[order]
    right = grades > 0
    counts = np.bincount(query, right, len(queries)).astype(np.int64)
    place = np.cumsum(right) - 1 - (np.cumsum(counts) - counts)[query]
    first = right & (place < k)
    known = _known_at_least(query, similarity)[first]
    query, place = query[first], place[first]
    wrong = at_least(queries[query], gallery, similarity[first] - TIE, block_size=block_size) - known
    shape = len(queries), min(k, counts.max(initial=0))
    found, found_grades = np.full(shape, NEVER), np.zeros(shape, np.int64)
    found[query, place], found_grades[query, place] = 1 + place + wrong, grades[first]
    return found, found_grades


def average_precision(places: Int[np.ndarray, "Q P"], k: int) -> Float[np.ndarray, " Q"]:
    """Average precision at k of each query: the mean, over as many right candidates as could be among the first k, of
    the share that is right up to each, 0 for one that is not among them. A query without right candidates has 0.

    Args:
        places: of the k best right candidates, or of more.
    """
    places = places[:, :k]
    precision = np.where(places <= k, np.arange(1, places.shape[1] + 1) / places, 0)
    return precision.sum(axis=1) / np.maximum((places != NEVER).sum(axis=1), 1)


def at_least(
    queries: Float[np.ndarray, "Q D"],
    gallery: Float[np.ndarray, "G D"],
    bars: Float[np.ndarray, " Q"],
    *,
    block_size: int = BLOCK_SIZE,
) -> Int[np.ndarray, " Q"]:
    """How many candidates are as similar to each query as its bar, or more; the similarities are float64 sums."""
    counts = np.zeros(len(queries), np.int64)
    # A thread a core, each with its own block: products and comparisons alike then use all of them.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        for rows in _blocks(len(queries), block_size):
            block = functools.partial(_count, queries[rows], bars=bars[rows])
            for found in pool.map(block, (gallery[cut] for cut in _blocks(len(gallery), block_size))):
                counts[rows] += found
    return counts


def join(left: Shaped[np.ndarray, " Q"], right: Shaped[np.ndarray, " G"]) -> tuple[np.ndarray, np.ndarray]:
    """Indices (i, j) of all pairs with ``left[i] == right[j]``, by i."""
    order = np.argsort(right, kind="stable")
    first = np.searchsorted(right[order], left, "left")
    counts = np.searchsorted(right[order], left, "right") - first
    i = np.repeat(np.arange(len(left)), counts)
    within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    return i, order[first[i] + within]


def unit_rows(x: Float[np.ndarray, "*N D"]) -> Float[np.ndarray, "*N D"]:
    """Rows of unit length, in the type they have; a row of zeros stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def require_finite(embeddings: Float[np.ndarray, "N D"], describe: Callable[[int], str]) -> None:
    """Refuses embeddings with a NaN or infinity: no comparison with them is true, so they would seem to rank first."""
    parts = [np.flatnonzero(~np.isfinite(embeddings[cut]).all(1)) + cut.start for cut in _blocks(len(embeddings), 4096)]
    bad = np.concatenate([np.empty(0, int), *parts])
    if len(bad):
        raise JaxrepError(
            f"the embedding of {describe(int(bad[0]))} is not finite ({len(bad)} of {len(embeddings)} are not), "
            "so the model cannot be measured: look for where training diverged"
        )


def _similarities(queries: np.ndarray, gallery: np.ndarray, pairs: Pairs, block_size: int) -> np.ndarray:
    """float64 [E] of the pairs."""
    query, candidate = pairs
    parts = [_products(queries[query[cut]], gallery[candidate[cut]]) for cut in _blocks(len(query), block_size)]
    return np.concatenate([np.empty(0), *parts])


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ed,ed->e", a.astype(np.float64), b.astype(np.float64))


def _count(queries: np.ndarray, gallery: np.ndarray, bars: np.ndarray) -> np.ndarray:
    """``at_least`` of one block."""
    error = _rounding(queries, gallery)
    if not error.max(initial=0) < np.inf:
        return _exact_count(queries, gallery, bars)
    low = np.nextafter(np.float32(bars - error), np.float32(-np.inf))
    high = np.nextafter(np.float32(bars + error), np.float32(np.inf))
    # Candidates by queries: comparisons then run along the bars.
    similarity = _float32(gallery) @ _float32(queries).T
    reached = similarity >= low
    if np.count_nonzero(reached) <= FEW * reached.size:
        at = np.flatnonzero(reached)
        counts = np.bincount(at % len(queries), minlength=len(queries))
        close = at[similarity.ravel()[at] <= high[at % len(queries)]]
    else:
        counts = _count_columns(reached)
        close = np.flatnonzero(np.logical_and(reached, similarity <= high, out=reached))
    if len(close) > FEW * reached.size:
        return _exact_count(queries, gallery, bars)
    candidate, query = np.divmod(close, len(queries))
    for cut in _blocks(len(query), BLOCK_SIZE):
        missed = _products(queries[query[cut]], gallery[candidate[cut]]) < bars[query[cut]]
        counts -= np.bincount(query[cut], missed, len(queries)).astype(np.int64)
    return counts


def _count_columns(mask: np.ndarray) -> np.ndarray:
    """``count_nonzero`` along axis 0, in bytes, which is several times as quick: 255 rows at a time do not overflow."""
    ones = mask.view(np.uint8)
    parts = [np.add.reduce(ones[cut], axis=0, dtype=np.uint8) for cut in _blocks(len(ones), 255)]
    return np.add.reduce(parts, axis=0, dtype=np.int64)


def _float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32, copy=False)


def _exact_count(queries: np.ndarray, gallery: np.ndarray, bars: np.ndarray) -> np.ndarray:
    return np.count_nonzero(gallery.astype(np.float64) @ queries.astype(np.float64).T >= bars, axis=0)


def _rounding(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """float64 [Q]: a bound on the error of similarities in float32; infinite where they may overflow.

    A sum of D products in any order is within ``D u / (1 - D u)`` of the true one, times the norms (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, section 3.1). Taken is ``(D + 2) eps``, twice as much and more, for
    the norms and embeddings that are rounded to float32 themselves.
    """
    limits, width = np.finfo(np.float32), queries.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        squares = [np.einsum("nd,nd->n", x, x) for x in (_float32(queries), _float32(gallery))]
        size = np.sqrt(squares[0].astype(np.float64) * squares[1].max(initial=0))
    return np.where(size < limits.max / 100, (width + 2) * (limits.eps * size + limits.tiny), np.inf)


def _known_at_least(query: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """How many of its query's own pairs reach each one's bar, where they are sorted by query and by similarity.

    One more than its place, but for ties: those end where the fall to the next one is more than a tie.
    """
    falls = np.append((np.diff(query) != 0) | (np.diff(similarity) < -TIE), True)
    ends = np.flatnonzero(falls)
    starts = np.flatnonzero(np.diff(query, prepend=-1))
    rows = np.arange(len(query))
    return ends[np.searchsorted(ends, rows)] + 1 - starts[np.searchsorted(starts, rows, "right") - 1]


def _blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
