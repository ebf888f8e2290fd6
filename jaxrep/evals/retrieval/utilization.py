"""Utilization of the embedding space, as metric learning measures it."""

from typing import ClassVar

import numpy as np

from jaxrep.evals.base import Model
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.metrics.sample import Sample
from jaxrep.spec import spec


@spec
class Utilization(FittedEval):
    """Measure the mean squared distance of a test image to its nearest training image.

    It is low if training has explored the regions of unseen classes (Venkataramanan et al. 2022, arXiv:2106.04990,
    section 4.4).

    Metrics:
        The metric has the name of the evaluation.
    """

    needs_classes: ClassVar[bool] = False

    name: str = "utilization"

    def run(self, model: Model) -> dict[str, float]:
        train, data = (self.embed(model, part).features.astype(np.float64) for part in ("train", "data"))
        nearest = [np.max(rows @ train.T, axis=1) for rows in np.array_split(data, -(-len(data) // 1024))]
        return {self.name: Sample(2 - 2 * np.concatenate(nearest))}
