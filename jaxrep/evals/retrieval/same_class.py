"""What metric learning is measured by: whether neighbors are of one class, and how well the space is used."""

import numpy as np

from jaxrep.errors import JaxrepError
from jaxrep.evals.classification.labeled_eval import FittedEval, LabeledEval
from jaxrep.metrics.ranking import NEVER, graded_places, join
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class SameClass(LabeledEval):
    """Recall at k, ``same_class/r<k>``: the share of pictures that have one of their class among their k neighbors.

    A picture is no neighbor of itself; one that is alone in its class asks nothing.
    """

    ks: tuple[int, ...] = (1, 2, 4, 8)
    """Neighbors that are looked at."""
    name: str = "same_class"
    """First part of the metrics' names."""

    def run(self, model: Model) -> dict[str, float]:
        features, labels, _ = self.pictures(model, self.data)
        query, candidate = join(labels, labels)
        # A grade of 0 takes the picture itself out of its ranking.
        places, _ = graded_places(features, features, (query, candidate), (query != candidate).astype(np.int64), 1)
        first = places[:, 0] if places.shape[1] else np.full(len(labels), NEVER)
        asked = np.bincount(labels)[labels] > 1
        if not asked.any():
            raise JaxrepError(f"{self.name}: no two pictures are of one class")
        return {f"{self.name}/r{k}": Sample(first[asked] <= k) for k in self.ks}


@spec
class Utilization(FittedEval):
    """The mean squared distance of a test picture to its nearest training picture, ``utilization``: low where training
    has explored the places at which unseen classes lie (Venkataramanan et al. 2022, arXiv:2106.04990, section 4.4)."""

    name: str = "utilization"
    """Name of the metric."""

    def run(self, model: Model) -> dict[str, float]:
        train, data = (self.pictures(model, source).features.astype(np.float64) for source in (self.train, self.data))
        nearest = [np.max(rows @ train.T, axis=1) for rows in np.array_split(data, -(-len(data) // 1024))]
        return {self.name: Sample(2 - 2 * np.concatenate(nearest))}
