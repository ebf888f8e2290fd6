"""Nearest class mean: the class whose training pictures are, on average, nearest to a picture.

Mensink et al. 2013 (Distance-based image classification); no parameter is fitted.
"""

import numpy as np

from jaxrep.evals.classification.classification import linear_ranks
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class NearestMean(FittedEval):
    """Accuracy by the Euclidean distance to the mean of each class's training features."""

    unit: bool = True
    """Whether features are scaled to unit length first."""
    name: str = "nearest_mean"
    """First part of the metrics' names."""

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.both(model, unit=self.unit)
        seen, known = np.unique(train.labels), np.isin(data.labels, train.labels)
        means = class_means(train.features, train.labels, classes)[seen]
        # |x - m|^2 = |x|^2 - 2 (x.m - |m|^2 / 2): the nearest mean has the highest of these logits.
        place = np.searchsorted(seen, data.labels[known])
        found = np.full(len(data.labels), classes)  # a class without a training picture is never the nearest
        found[known] = linear_ranks(data.features[known], place, means, -(means**2).sum(1) / 2)
        return self.accuracies(found, data.labels)


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """float64 [K,D]: the mean of the features [N,D] of each label; NaN of a class without any."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    means = np.full((classes, features.shape[1]), np.nan)
    ends = np.append(starts[1:], len(order))
    for label, start, end in zip(present, starts, ends, strict=True):
        means[label] = features[order[start:end]].mean(axis=0, dtype=np.float64)
    return means
