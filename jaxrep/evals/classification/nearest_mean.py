"""Nearest class mean: predict the class whose mean training feature is nearest to an image.

Mensink et al. 2013 (Distance-based image classification). No parameter is fitted.
"""

import numpy as np

from jaxrep.evals.base import Model
from jaxrep.evals.classification.classification import linear_ranks
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.spec import spec


@spec
class NearestMean(FittedEval):
    """Measure accuracy by the Euclidean distance to the mean training feature of each class.

    Metrics:
        ``top<k>``, ``mean_per_class``.
    """

    normalize: bool = True
    """Whether to scale features to unit length first."""
    name: str = "nearest_mean"

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.train_and_data(model, normalize=self.normalize)
        present, known = np.unique(train.labels), np.isin(data.labels, train.labels)
        means = class_means(train.features, train.labels, classes)[present]
        # |x - m|^2 = |x|^2 - 2 (x.m - |m|^2 / 2): the nearest mean has the highest of these logits.
        answers = np.searchsorted(present, data.labels[known])
        ranks = np.full(len(data.labels), classes)  # a class without a training image is never the nearest
        ranks[known] = linear_ranks(data.features[known], answers, means, -(means**2).sum(1) / 2)
        return self.accuracies(ranks, data.labels)


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Average the features [N,D] per label: float64 [K,D], NaN for a class without images."""
    means = np.full((classes, features.shape[1]), np.nan)
    for label in np.unique(labels):
        means[label] = features[labels == label].mean(axis=0, dtype=np.float64)
    return means
