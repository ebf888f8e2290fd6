"""Few-shot linear probe: accuracy of a linear classifier that is fitted to n images of each class."""

import numpy as np

from jaxrep.data.transforms.subsets import few_of_each
from jaxrep.evals.base import Model
from jaxrep.evals.classification.classification import linear_ranks
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.metrics.logistic_regression import LogisticRegression
from jaxrep.spec import Count, Natural, Positive, spec


@spec
class FewShot(FittedEval):
    """Measure accuracy of logistic regression on n images of each class, averaged over several draws of the images.

    A class with fewer than n training images gives all of them.

    Metrics:
        ``<n>/top<k>``: mean over the draws. ``<n>/spread``: standard deviation of ``top1`` over the draws.
    """

    shots: tuple[Count, ...] = (1, 2, 4, 8, 16)
    """Numbers n of training images per class."""
    draws: Count = 10
    """Number of draws of the training images."""
    l2: Positive = 0.1
    """Strength of the penalty. There are too few labels to choose it."""
    normalize: bool = True
    """Whether to scale features to unit length first."""
    max_iterations: Count = 1000
    """Maximum number of L-BFGS steps per fit."""
    seed: Natural = 0
    """Seed of the draws."""
    name: str = "few_shot"

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.train_and_data(model, normalize=self.normalize)
        metrics = {}
        for shots in self.shots:
            draws = []
            for draw in range(self.draws):
                rows = few_of_each(train.labels, shots, np.random.default_rng((self.seed, shots, draw)))
                logistic = LogisticRegression(train.features[rows], train.labels[rows], classes, self.max_iterations)
                draws.append(linear_ranks(data.features, data.labels, *logistic.fit(self.l2)))
            ranks = np.stack(draws)
            metrics |= {f"{shots}/top{k}": (ranks <= k).mean(axis=0) for k in self.ks}
            metrics[f"{shots}/spread"] = float((ranks == 1).mean(axis=1).std())
        return self.named(metrics)
