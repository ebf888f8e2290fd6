"""Linear probe: accuracy of a linear classifier on frozen features."""

from typing import Annotated

import numpy as np

from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.classification.classification import linear_ranks
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.metrics.logistic_regression import LinearClassifier, LogisticRegression, search_l2
from jaxrep.spec import Count, Range, spec


@spec
class LinearProbe(FittedEval):
    """Measure accuracy of logistic regression on all training labels.

    As in Radford et al. 2021 (CLIP, appendix A.3), a binary search chooses the best of 97 strengths of the L2 penalty
    on held-out training images. The final classifier is fitted to all training images.

    Metrics:
        ``top<k>``, ``mean_per_class``, and ``l2``: the chosen penalty.
    """

    normalize: bool = False
    """Whether to scale features to unit length first."""
    validation: Annotated[float, Range(above=0, below=1)] = 0.2
    """Fraction of the training images that choose the penalty."""
    max_iterations: Count = 1000
    """Maximum number of L-BFGS steps per fit."""
    seed: int = 0
    """Seed of the choice of held-out images."""
    name: str = "probe"

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.train_and_data(model, normalize=self.normalize)
        l2 = self._choose_l2(train.features, train.labels, classes)
        fitted = LogisticRegression(train.features, train.labels, classes, self.max_iterations).fit(l2)
        return self.accuracies(linear_ranks(data.features, data.labels, *fitted), data.labels) | {f"{self.name}/l2": l2}

    def _choose_l2(self, features: np.ndarray, labels: np.ndarray, classes: int) -> float:
        order = np.random.default_rng(self.seed).permutation(len(labels))
        count = round(self.validation * len(labels))
        if not 0 < count < len(labels):
            raise JaxrepError(
                f"{self.name}: train holds {len(labels)} images, too few to hold out a fraction of {self.validation}"
            )
        held_out, kept = order[:count], order[count:]
        logistic = LogisticRegression(features[kept], labels[kept], classes, self.max_iterations)
        return search_l2(lambda l2: _accuracy(logistic.fit(l2), features[held_out], labels[held_out]))


def _accuracy(classifier: LinearClassifier, features: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(linear_ranks(features, labels, *classifier) == 1))
