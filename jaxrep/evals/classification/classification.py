"""Accuracy of the classification heads of a model on held-out images."""

import numpy as np

from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.classification.labeled_eval import LabeledEval
from jaxrep.metrics.ranking import best_ranks
from jaxrep.spec import Count, spec


@spec
class Classification(LabeledEval):
    """Measure top-k accuracy per linear head.

    Metrics:
        ``top<k>``, ``mean_per_class``; of nested heads ``<d>/top<k>``, ``<d>/mean_per_class``.
    """

    dims: tuple[Count, ...] = ()
    """Widths of the nested heads. Empty: one head over all features."""
    name: str = "classification"

    @property
    def reads(self) -> tuple[str, ...]:
        return *super().reads, *(f"classes{head}" for head in self._heads)

    @property
    def _heads(self) -> dict[str, int | None]:
        return {f"/{dim}": dim for dim in self.dims} or {"": None}

    def run(self, model: Model) -> dict[str, float]:
        features, labels, *_ = self.embed(model, normalize=False)
        metrics = {}
        for head, dim in self._heads.items():
            weights, bias = model.per_step((f"classes{head}", f"classes{head}/bias")).values()
            ranks = linear_ranks(features[:, :dim], labels, weights, bias)
            metrics |= self.accuracies(ranks, labels, f"{self.name}{head}")
        return metrics


def linear_ranks(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Rank the correct class per row by the logits ``features @ weights.T + bias``: [N], from 1.

    A tie counts against the model.

    Args:
        features: [N,D].
        labels: [N], from 0.
        weights: [K,D].
        bias: [K].

    Raises:
        JaxrepError: A weight is not a number, or a label is not one of the K classes.
    """
    if labels.max(initial=0) >= len(weights):
        raise JaxrepError(f"labels run up to {labels.max()}, and the head has {len(weights)} classes")
    ones = np.ones((len(features), 1), np.float32)
    table = np.concatenate([weights, bias[:, None]], axis=1)
    return best_ranks(np.concatenate([features, ones], axis=1), table, (np.arange(len(features)), labels))
