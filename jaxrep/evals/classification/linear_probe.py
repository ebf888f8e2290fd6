"""Linear probe: accuracy of a linear classifier on frozen features."""

from typing import Annotated

import numpy as np

from jaxrep.data.source import ranked
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.classification.classification import linear_ranks
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.metrics.logistic_regression import LinearClassifier, LogisticRegression, search_l2
from jaxrep.reads import Reads
from jaxrep.spec import Count, Natural, Range, spec


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
    hold_out_by: Annotated[str, Reads(columns=("{}",), sources=("train",))] = ""
    """Column of training images. Those with one value, as the variants of a drawing, are held out or kept together.
    Empty: each image alone."""
    max_iterations: Count = 1000
    """Maximum number of L-BFGS steps per fit."""
    seed: Natural = 0
    """Seed of the choice of held-out images."""
    name: str = "probe"

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.train_and_data(model, normalize=self.normalize)
        groups = train.columns.get(self.hold_out_by, range(len(train.labels)))
        held_out, kept = self._held_out(np.unique(ranked(groups), return_inverse=True)[1])
        logistic = LogisticRegression(train.features[kept], train.labels[kept], classes, self.max_iterations)
        l2 = search_l2(lambda l2: _accuracy(logistic.fit(l2), train.features[held_out], train.labels[held_out]))
        fitted = LogisticRegression(train.features, train.labels, classes, self.max_iterations).fit(l2)
        return self.accuracies(linear_ranks(data.features, data.labels, *fitted), data.labels) | {f"{self.name}/l2": l2}

    def _held_out(self, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that are held out, and the rows that are kept, given the group of each row from 0 [N].

        Whole groups are held out in a random order, as many as come nearest to the fraction.
        """
        sizes = np.bincount(groups)
        order = np.random.default_rng(self.seed).permutation(len(sizes))
        ends = np.append(0, np.cumsum(sizes[order]))
        count = ends[np.abs(ends - round(self.validation * len(groups))).argmin()]
        if not 0 < count < len(groups):
            of_groups = f" in {len(sizes)} groups of '{self.hold_out_by}'" if self.hold_out_by else ""
            raise JaxrepError(
                f"{self.name}: train holds {len(groups)} images{of_groups}, too few to hold out a fraction of "
                f"{self.validation}"
            )
        rows = np.argsort(np.argsort(order)[groups], kind="stable")
        return rows[:count], rows[count:]


def _accuracy(classifier: LinearClassifier, features: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(linear_ranks(features, labels, *classifier) == 1))
