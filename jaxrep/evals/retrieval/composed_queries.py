"""Retrieval by composed queries: an image plus or minus a text (Jia et al. 2021, ALIGN, arXiv:2102.05918, section 6).

The query is the unit embedding of an image with the embedding of a text added or subtracted, as "woman" - "man". The
correct answer is the image that differs in that text only.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxrep.data.transforms import word_swaps
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.embed import embed_each
from jaxrep.evals.retrieval.captioned_eval import CaptionedEval
from jaxrep.metrics.ranking import IndexPairs, graded_ranks, unit_rows
from jaxrep.spec import Count, Finite, spec

Rows = Float[np.ndarray, "N D"]


class Query(NamedTuple):
    """Hold an image, the removed phrase, the added phrase, and the caption of the target image."""

    image: int
    old: str
    new: str
    kind: str
    target: str


def compose(images: Rows, plus: Rows | None = None, minus: Rows | None = None, *, weight: float = 1.0) -> Rows:
    """Return unit rows ``image + weight (plus - minus)`` of unit rows. A sum of zero stays zero."""
    total = images.astype(np.float64)
    for sign, rows in ((1, plus), (-1, minus)):
        if rows is not None:
            total = total + sign * weight * rows
    return unit_rows(total).astype(np.float32)


@spec
class ComposedQueries(CaptionedEval):
    """Measure recall of the image that an image becomes by a swap of words, among all other images.

    There is one query per caption that a replacement of the lexicon turns into the caption of another image. For
    "woman: dark skin tone" and "man: dark skin tone" it is image - "woman" + "man".

    Metrics:
        ``<kind>/r<k>``: recall. ``<kind>/picture_alone/r<k>``: the baseline without the text.
    """

    lexicon: str = ""
    """A file of phrases that exclude one another, as ``jaxrep/data/transforms/swaps.txt``. Empty: that file."""
    ks: tuple[Count, ...] = (1, 5)
    """Numbers k of first images."""
    weight: Finite = 1.0
    """Weight of the text relative to the image (ALIGN: 1)."""
    name: str = "composed"

    def run(self, model: Model) -> dict[str, float]:
        (images, ids), captions, _ = self.embed_captioned(model)
        owners = _owners(captions)
        queries = [q for q in self._queries(captions, owners) if _others(owners[q.target], ids, ids[q.image])]
        if not queries:
            raise JaxrepError(f"{self.name}: no swap of words turns one caption into that of another image")
        phrases = embed_each(model, (phrase for query in queries for phrase in (query.old, query.new)), self.text)
        start = images[[query.image for query in queries]]
        minus = np.stack([phrases[query.old] for query in queries])
        plus = np.stack([phrases[query.new] for query in queries])
        positives, grades = _positives(queries, owners, ids)
        kinds = np.array([query.kind for query in queries])
        metrics = {}
        for prefix, rows in (("", compose(start, plus, minus, weight=self.weight)), ("picture_alone/", start)):
            ranks = graded_ranks(rows, images, positives, grades, 1)[0][:, 0]
            for kind in sorted(set(kinds)):
                for k in self.ks:
                    metrics[f"{kind}/{prefix}r{k}"] = ranks[kinds == kind] <= k
        return self.named(metrics)

    def _queries(self, captions: list[tuple[str, ...]], owners: dict[str, list[int]]) -> Iterator[Query]:
        groups = word_swaps.read(self.lexicon)
        for image, group in enumerate(captions):
            for caption in group:
                for span in word_swaps.phrases(caption, groups):
                    old = caption[span.start : span.end]
                    for negative in word_swaps.replacements(caption, groups, [span]):
                        new = negative.text[span.start : len(negative.text) - (len(caption) - span.end)]
                        if negative.text.lower() in owners:
                            yield Query(image, old, new, span.kind, negative.text.lower())


def _owners(captions: list[tuple[str, ...]]) -> dict[str, list[int]]:
    """Return the images of each caption in lower case."""
    owners = defaultdict(list)
    for image, group in enumerate(captions):
        for caption in group:
            owners[caption.lower()].append(image)
    return owners


def _others(images: list[int], ids: np.ndarray, query_id: int) -> list[int]:
    return [image for image in images if ids[image] != query_id]


def _positives(queries: list[Query], owners: dict[str, list[int]], ids: np.ndarray) -> tuple[IndexPairs, np.ndarray]:
    """Return pairs and grades: 1 for all copies of the target image, 0 for the copies of the query's image."""
    pairs = set()
    for number, query in enumerate(queries):
        query_id = ids[query.image]
        targets = ids[_others(owners[query.target], ids, query_id)]
        pairs |= {(number, int(at), 1) for at in np.flatnonzero(np.isin(ids, targets))}
        pairs |= {(number, int(at), 0) for at in np.flatnonzero(ids == query_id)}
    query, candidate, grade = np.array(sorted(pairs)).T
    return (query, candidate), grade
