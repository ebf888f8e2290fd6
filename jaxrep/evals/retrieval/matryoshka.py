"""Quality against width, of nested embeddings: the curve, and retrieval that looks closely at a few only.

Kusupati et al. 2022, Matryoshka Representation Learning (arXiv:2205.13147): section 4.2 for the first coordinates
alone; section 4.3 for adaptive retrieval, where what is found at few dimensions is ranked again at more (the funnel).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrep.errors import JaxrepError
from jaxrep.evals.retrieval.captioned_eval import CaptionedEval
from jaxrep.evals.retrieval.retrieval import right_pairs
from jaxrep.metrics.ranking import TIE, ranks, unit_rows
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec

AT_ONCE = 2**24
"""Similarities that exist at a time."""

Stage = tuple[int, int]
"""(dimensions, how many candidates go on from here)."""


@spec
class Matryoshka(CaptionedEval):
    """Recall at 1 by width, and of adaptive retrieval with its cost, both ways.

    ``<name>/<way>/<d>/r1``: with the first d coordinates, scaled to unit length; ``<name>/<way>/adaptive/r1``: in the
    stages of ``funnel``; ``<name>/<way>/adaptive/multiply_adds``: a query's, as a share of those of all candidates at
    full width.
    """

    dims: tuple[int, ...]
    """Widths of the curve."""
    funnel: tuple[tuple[int, int], ...] = ()
    """Stages (dimensions, candidates that are kept): ((16, 200), (64, 50)) finds 200 at 16 dimensions and 50 of them at
    64; what is left is ranked at full width. Empty: no adaptive retrieval."""
    name: str = "matryoshka"
    """First part of the metrics' names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.dims or min(self.dims) < 1:
            yield f"dims names widths, from 1, and is not {self.dims}"
        widths, kept = ([stage[i] for stage in self.funnel] for i in (0, 1))
        if any(least < 1 for least in widths + kept) or widths != sorted(set(widths)) or kept != sorted(kept)[::-1]:
            yield f"funnel goes from few dimensions and many candidates to more and fewer, and is not {self.funnel}"

    def run(self, model: Model) -> dict[str, float]:
        images, texts, pairs = self.pairs(model)
        width, asked = images.embeddings.shape[1], [*self.dims, *(dims for dims, _ in self.funnel)]
        if max(asked) > width:
            raise JaxrepError(f"{self.name}: {max(asked)} dimensions are asked for, and the embeddings have {width}")
        metrics = {}
        for query, candidate, way in (
            (images, texts, f"{self.image}_to_{self.text}"),
            (texts, images, f"{self.text}_to_{self.image}"),
        ):
            a, b, right = query.embeddings, candidate.embeddings, right_pairs(query.ids, candidate.ids, pairs)
            for dims in self.dims:
                found = ranks(first(a, dims), first(b, dims), right)
                metrics[f"{self.name}/{way}/{dims}/r1"] = Sample(found <= 1)
            if self.funnel:
                cost = multiply_adds(len(b), width, self.funnel) / (len(b) * width)
                metrics[f"{self.name}/{way}/adaptive/r1"] = Sample(adaptive(a, b, right, self.funnel))
                metrics[f"{self.name}/{way}/adaptive/multiply_adds"] = cost
            pairs = pairs[:, ::-1]
        return metrics


def first(x: Float[np.ndarray, "N D"], dims: int) -> Float[np.ndarray, "N dims"]:
    """The first coordinates, scaled to unit length; zeros stay zeros."""
    return unit_rows(x[:, :dims].astype(np.float64)).astype(np.float32)


def adaptive(
    queries: Float[np.ndarray, "Q D"],
    gallery: Float[np.ndarray, "G D"],
    positives: tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]],
    funnel: Sequence[Stage],
) -> Bool[np.ndarray, " Q"]:
    """Whether each query's first candidate is right, where few are looked at more and more closely.

    A right candidate goes on from a stage if fewer wrong ones than are kept are as similar or more, and right ones do
    not compete; so a tie counts against the query in every stage. This measures the quality; all similarities are
    computed here, and ``multiply_adds`` says what a search spends.
    """
    found = np.zeros(len(queries), bool)
    stages = [(first(queries, dims), first(gallery, dims), kept) for dims, kept in (*funnel, (queries.shape[1], 1))]
    step = max(AT_ONCE // len(gallery), 1)
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        inside = (positives[0] >= start) & (positives[0] < start + step)
        right = np.zeros((len(queries[rows]), len(gallery)), bool)
        right[positives[0][inside] - start, positives[1][inside]] = True
        alive = np.ones_like(right)
        for asked, held, kept in stages:
            alive &= _survivors(asked[rows], held, right, alive, kept)
        found[rows] = (alive & right).any(axis=1)
    return found


def _survivors(queries: np.ndarray, gallery: np.ndarray, right: np.ndarray, alive: np.ndarray, kept: int) -> np.ndarray:
    """bool [Q,G]: which candidates are among the ``kept`` first of those alive, those that are right in doubt last."""
    similarity = np.where(alive, queries.astype(np.float64) @ gallery.astype(np.float64).T, -np.inf)
    wrong = np.where(right, -np.inf, similarity)
    if kept >= wrong.shape[1]:
        return np.isfinite(similarity)
    bar = np.partition(wrong, -kept, axis=1)[:, -kept, None]  # of the last wrong candidate that would go on
    return np.isfinite(similarity) & np.where(right, similarity > bar + TIE, similarity >= bar)


def multiply_adds(candidates: int, width: int, funnel: Sequence[Stage]) -> int:
    """Of one query: every candidate at the first stage's dimensions, then those that were kept at the next one's."""
    counts = [candidates, *(min(kept, candidates) for _, kept in funnel)]
    return sum(count * dims for count, dims in zip(counts, [*(dims for dims, _ in funnel), width], strict=True))
