"""Recall at k by class, as metric learning measures it."""

import numpy as np

from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.classification.labeled_eval import LabeledEval
from jaxrep.metrics.ranking import NO_RANK, equal_pairs, graded_ranks
from jaxrep.spec import Count, spec


@spec
class SameClass(LabeledEval):
    """Measure the share of images that have an image of their class among their k neighbors.

    An image is no neighbor of itself. An image that is alone in its class is no query.

    Metrics:
        ``r<k>``.
    """

    ks: tuple[Count, ...] = (1, 2, 4, 8)
    """Numbers k of nearest neighbors."""
    name: str = "same_class"

    def run(self, model: Model) -> dict[str, float]:
        features, labels, *_ = self.embed(model)
        query, candidate = equal_pairs(labels, labels)
        # A grade of 0 takes the image itself out of its ranking.
        places, _ = graded_ranks(features, features, (query, candidate), (query != candidate).astype(np.int64), 1)
        first = places[:, 0] if places.shape[1] else np.full(len(labels), NO_RANK)
        queries = np.bincount(labels)[labels] > 1
        if not queries.any():
            raise JaxrepError(f"{self.name}: no two images have the same class")
        return self.named({f"r{k}": first[queries] <= k for k in self.ks})
