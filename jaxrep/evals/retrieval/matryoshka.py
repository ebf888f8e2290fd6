"""Retrieval quality per width of nested embeddings, and adaptive retrieval.

Kusupati et al. 2022, Matryoshka Representation Learning (arXiv:2205.13147): section 4.2 for the first coordinates
alone; section 4.3 for adaptive retrieval, which ranks candidates from few dimensions again at more (the funnel).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.retrieval.captioned_eval import CaptionedEval
from jaxrep.metrics.ranking import TIE, Gallery, IndexPairs, Queries, best_ranks, row_blocks, unit_rows
from jaxrep.spec import Count, spec

MAX_SIMILARITIES = 2**24
"""Number of similarities that are in memory at the same time."""

Stage = tuple[Count, Count]
"""(dimensions, number of candidates that the stage keeps)."""


@spec
class Matryoshka(CaptionedEval):
    """Measure recall at 1 per width, and of adaptive retrieval with its cost, in both directions.

    Metrics:
        ``<direction>/<d>/r1``: with the first d coordinates, scaled to unit length. ``<direction>/adaptive/r1``: with
        the stages of ``funnel``. ``<direction>/adaptive/multiply_adds``: cost per query, as a fraction of the cost of
        all candidates at full width.
    """

    dims: tuple[Count, ...]
    """Widths."""
    funnel: tuple[Stage, ...] = ()
    """Stages (dimensions, candidates that are kept). ((16, 200), (64, 50)) keeps 200 candidates at 16 dimensions, and
    50 of them at 64. The remaining candidates are ranked at full width. Empty: no adaptive retrieval."""
    name: str = "matryoshka"

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        dims, kept = ([stage[i] for stage in self.funnel] for i in (0, 1))
        if dims != sorted(set(dims)) or kept != sorted(kept)[::-1]:
            yield f"funnel needs increasing dimensions and decreasing numbers of candidates, got {self.funnel}"

    def run(self, model: Model) -> dict[str, float]:
        metrics, largest = {}, max(*self.dims, *(dims for dims, _ in self.funnel), 0)
        for direction, queries, gallery, positives in self.directions(model):
            width = gallery.shape[1]
            if largest > width:
                raise JaxrepError(f"{self.name}: the embeddings have {width} dimensions, not {largest}")
            for dims in self.dims:
                at_dims = best_ranks(first_dims(queries, dims), first_dims(gallery, dims), positives)
                metrics[f"{direction}/{dims}/r1"] = at_dims <= 1
            if self.funnel:
                cost = multiply_adds(len(gallery), width, self.funnel) / (len(gallery) * width)
                metrics[f"{direction}/adaptive/r1"] = adaptive_hits(queries, gallery, positives, self.funnel)
                metrics[f"{direction}/adaptive/multiply_adds"] = cost
        return self.named(metrics)


def first_dims(x: Float[np.ndarray, "N D"], dims: int) -> Float[np.ndarray, "N dims"]:
    """Return the first coordinates, scaled to unit length. Zeros stay zeros."""
    return unit_rows(x[:, :dims].astype(np.float64)).astype(np.float32)


def adaptive_hits(
    queries: Queries, gallery: Gallery, positives: IndexPairs, funnel: Sequence[Stage]
) -> Bool[np.ndarray, " Q"]:
    """Return whether the first candidate of each query is positive after all stages of the funnel.

    A positive passes a stage if fewer negatives than the stage keeps are at least as similar, and positives do not
    compete. So a tie counts against the query in every stage. This function measures quality and computes all
    similarities; ``multiply_adds`` is the cost of a search.
    """
    hits = np.zeros(len(queries), bool)
    funnel = (*funnel, (queries.shape[1], 1))
    stages = [(first_dims(queries, dims), first_dims(gallery, dims), kept) for dims, kept in funnel]
    for rows in row_blocks(len(queries), max(MAX_SIMILARITIES // len(gallery), 1)):
        inside = (positives[0] >= rows.start) & (positives[0] < rows.stop)
        positive = np.zeros((rows.stop - rows.start, len(gallery)), bool)
        positive[positives[0][inside] - rows.start, positives[1][inside]] = True
        alive = np.ones_like(positive)
        for query, candidate, kept in stages:
            alive &= _survivors(query[rows], candidate, positive, alive, kept)
        hits[rows] = (alive & positive).any(axis=1)
    return hits


def _survivors(
    queries: np.ndarray, gallery: np.ndarray, positive: np.ndarray, alive: np.ndarray, kept: int
) -> np.ndarray:
    """Return which candidates are among the first ``kept`` that are alive, bool [Q,G]. Positives lose ties."""
    similarity = np.where(alive, queries.astype(np.float64) @ gallery.astype(np.float64).T, -np.inf)
    negatives = np.where(positive, -np.inf, similarity)
    if kept >= negatives.shape[1]:
        return np.isfinite(similarity)
    threshold = np.partition(negatives, -kept, axis=1)[:, -kept, None]  # of the last negative that would pass
    return np.isfinite(similarity) & np.where(positive, similarity > threshold + TIE, similarity >= threshold)


def multiply_adds(candidates: int, width: int, funnel: Sequence[Stage]) -> int:
    """Return the multiply-adds of one query: all candidates in the first stage, then the kept ones per later stage."""
    counts = [candidates, *(min(kept, candidates) for _, kept in funnel)]
    return sum(count * dims for count, dims in zip(counts, [*(dims for dims, _ in funnel), width], strict=True))
