"""Queries beyond a pair: a picture plus or minus a text (Jia et al. 2021, ALIGN, arXiv:2102.05918, section 6).

The query is the unit embedding of a picture with that of a text added or subtracted, as "woman" - "man"; what should be
found is the picture that differs in just that.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxrep.data.transforms import word_swaps
from jaxrep.errors import JaxrepError
from jaxrep.evals.embed import embed_texts
from jaxrep.evals.retrieval.captioned_eval import CaptionedEval
from jaxrep.metrics.ranking import graded_places, unit_rows
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


class Query(NamedTuple):
    """A picture, the phrase that goes and the one that comes, and the caption of what is to be found."""

    picture: int
    old: str
    new: str
    kind: str
    wanted: str


def compose(
    images: Float[np.ndarray, "N D"],
    plus: Float[np.ndarray, "N D"] | None = None,
    minus: Float[np.ndarray, "N D"] | None = None,
    *,
    weight: float = 1.0,
) -> Float[np.ndarray, "N D"]:
    """Unit rows ``image + weight (plus - minus)`` of unit rows; zero where these cancel."""
    total = images.astype(np.float64)
    total = total + weight * plus if plus is not None else total
    total = total - weight * minus if minus is not None else total
    return unit_rows(total).astype(np.float32)


@spec
class ComposedQueries(CaptionedEval):
    """Recall of the picture that a picture becomes by a swap of words, among all pictures but itself.

    For every caption that a replacement of the lexicon turns into the caption of another picture ("woman: dark skin
    tone" into "man: dark skin tone") the query is picture - "woman" + "man". ``<name>/<kind>/r<k>``, and
    ``<name>/<kind>/picture_alone/r<k>``: without the text, to compare with.
    """

    lexicon: str = ""
    """As of ``Composition``."""
    ks: tuple[int, ...] = (1, 5)
    """How many of the first pictures are looked at."""
    weight: float = 1.0
    """Of the text beside the picture (ALIGN adds them as they are)."""
    name: str = "composed"
    """First part of the metrics' names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ks or min(self.ks) < 1:
            yield f"ks counts pictures, from 1, and is not {self.ks}"

    def run(self, model: Model) -> dict[str, float]:
        (images, ids), captions, _ = self.pictures(model)
        owners = _owners(captions)
        queries = [query for query in self._queries(captions) if _others(owners[query.wanted], ids, ids[query.picture])]
        if not queries:
            raise JaxrepError(f"{self.name}: no swap of words turns one caption into that of another picture")
        phrases = list(dict.fromkeys(phrase for query in queries for phrase in (query.old, query.new)))
        row, embedded = {phrase: i for i, phrase in enumerate(phrases)}, embed_texts(model, phrases, self.text)
        start = images[[query.picture for query in queries]]
        minus = embedded[[row[query.old] for query in queries]]
        plus = embedded[[row[query.new] for query in queries]]
        composed = compose(start, plus, minus, weight=self.weight)
        positives, grades = _positives(queries, owners, ids)
        kinds = np.array([query.kind for query in queries])
        metrics = {}
        for way, rows in (("", composed), ("picture_alone/", start)):
            found = graded_places(rows, images, positives, grades, 1)[0][:, 0]
            for kind in sorted(set(kinds)):
                for k in self.ks:
                    metrics[f"{self.name}/{kind}/{way}r{k}"] = Sample(found[kinds == kind] <= k)
        return metrics

    def _queries(self, captions: list[tuple[str, ...]]) -> Iterator[Query]:
        groups = word_swaps.read(self.lexicon)
        known = _owners(captions)
        for picture, group in enumerate(captions):
            for caption in group:
                for span in word_swaps.phrases(caption, groups):
                    old = caption[span.start : span.end]
                    for negative in word_swaps.replacements(caption, groups, [span]):
                        new = negative.text[span.start : len(negative.text) - (len(caption) - span.end)]
                        if negative.text.lower() in known:
                            yield Query(picture, old, new, span.kind, negative.text.lower())


def _owners(captions: list[tuple[str, ...]]) -> dict[str, list[int]]:
    """Which pictures have a caption, whatever its case."""
    owners = defaultdict(list)
    for picture, group in enumerate(captions):
        for caption in group:
            owners[caption.lower()].append(picture)
    return owners


def _others(pictures: list[int], ids: np.ndarray, own: int) -> list[int]:
    return [picture for picture in pictures if ids[picture] != own]


def _positives(
    queries: list[Query], owners: dict[str, list[int]], ids: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Pairs with grade 1 for what is to be found, all copies of it, and 0 for the copies of the query's picture."""
    pairs = set()
    for number, query in enumerate(queries):
        own = ids[query.picture]
        right = ids[_others(owners[query.wanted], ids, own)]
        pairs |= {(number, int(at), 1) for at in np.flatnonzero(np.isin(ids, right))}
        pairs |= {(number, int(at), 0) for at in np.flatnonzero(ids == own)}
    query, candidate, grade = np.array(sorted(pairs)).T
    return (query, candidate), grade
