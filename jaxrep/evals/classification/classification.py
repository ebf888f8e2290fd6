"""Accuracy of a classifier's own heads on held-out pictures."""

import numpy as np

from jaxrep.errors import JaxrepError
from jaxrep.evals.classification.labeled_eval import LabeledEval
from jaxrep.metrics.ranking import ranks
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class Classification(LabeledEval):
    """Top-k accuracy of each linear head: ``classification/top1``, or ``classification/<d>/top1`` for nested heads."""

    dims: tuple[int, ...] = ()
    """Widths of the nested heads; empty: one head over all features."""
    name: str = "classification"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        tables = tuple(f"classes/{dim}" for dim in self.dims) or ("classes",)
        return *super().reads, *tables

    def run(self, model: Model) -> dict[str, float]:
        features, labels, _ = self.pictures(model, self.data, unit=False)
        metrics = {}
        for dim in self.dims or (features.shape[1],):
            table = f"classes/{dim}" if self.dims else "classes"
            shared = model.per_step((table, f"{table}/bias"))
            found = linear_ranks(features[:, :dim], labels, shared[table], shared[f"{table}/bias"])
            metrics |= self.accuracies(found, labels, f"{self.name}/{dim}" if self.dims else self.name)
        return metrics


def linear_ranks(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Rank [N] of the right class of features [N,D] by the logits ``features @ weights.T + bias``, weights [K,D], from
    1; a tie counts against the model.

    Raises JaxrepError: a weight is not a number, or a label is none of the classes.
    """
    if labels.max(initial=0) >= len(weights):
        raise JaxrepError(f"labels run up to {labels.max()}, and the head has {len(weights)} classes")
    ones = np.ones((len(features), 1), np.float32)
    table = np.concatenate([weights, bias[:, None]], axis=1)
    return ranks(np.concatenate([features, ones], axis=1), table, (np.arange(len(features)), labels))
