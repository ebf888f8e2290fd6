"""Linear probes: how well a linear classifier on frozen features does, on all labels or a few shots of each class."""

from collections.abc import Iterator

import numpy as np

from jaxrep.data.transforms.select import few_of_each
from jaxrep.errors import JaxrepError
from jaxrep.evals.classification.classification import linear_ranks
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.metrics.logistic_regression import Linear, Logistic, search
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class LinearProbe(FittedEval):
    """Accuracy of logistic regression on all training labels: ``probe/top1`` …, and its penalty as ``probe/l2``.

    As Radford et al. 2021 (CLIP, appendix A.3): the strength of the L2 penalty is the best of 97 on a part of the
    training pictures that is held out, found by a binary search; then all are fitted to.
    """

    unit: bool = False
    """Whether features are scaled to unit length first."""
    validation: float = 0.2
    """Share of the training pictures that choose the penalty."""
    max_iterations: int = 1000
    """Most steps of L-BFGS for one fit."""
    seed: int = 0
    """Of the choice of the pictures that are held out."""
    name: str = "probe"
    """First part of the metrics' names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 < self.validation < 1:
            yield f"validation is a share, between 0 and 1, and not {self.validation}"
        if self.max_iterations < 1:
            yield f"max_iterations counts steps: at least 1, got {self.max_iterations}"

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.both(model, unit=self.unit)
        l2 = self._choose(train.features, train.labels, classes)
        fitted = Logistic(train.features, train.labels, classes, self.max_iterations).fit(l2)
        return self.accuracies(linear_ranks(data.features, data.labels, *fitted), data.labels) | {f"{self.name}/l2": l2}

    def _choose(self, features: np.ndarray, labels: np.ndarray, classes: int) -> float:
        order = np.random.default_rng(self.seed).permutation(len(labels))
        held = round(self.validation * len(labels))
        if not 0 < held < len(labels):
            raise JaxrepError(
                f"{self.name}: train holds {len(labels)} pictures: too few to hold out a share of {self.validation}"
            )
        out, kept = order[:held], order[held:]
        logistic = Logistic(features[kept], labels[kept], classes, self.max_iterations)
        return search(lambda l2: _accuracy(logistic.fit(l2), features[out], labels[out]))


def _accuracy(classifier: Linear, features: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(linear_ranks(features, labels, *classifier) == 1))


@spec
class FewShot(FittedEval):
    """Accuracy of logistic regression on n pictures of each class, ``few_shot/<n>/top1``: the mean over several draws
    of them, and ``few_shot/<n>/spread``, the standard deviation over the draws.

    A class with fewer than n training pictures gives all that it has.
    """

    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Numbers n of training pictures of each class."""
    draws: int = 10
    """How often the pictures are drawn."""
    l2: float = 0.1
    """Strength of the penalty: so few labels leave none to choose it by."""
    unit: bool = True
    """Whether features are scaled to unit length first."""
    max_iterations: int = 1000
    """Most steps of L-BFGS for one fit."""
    seed: int = 0
    """Of the draws."""
    name: str = "few_shot"
    """First part of the metrics' names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.shots or min(self.shots) < 1 or self.draws < 1:
            yield f"shots and draws are at least 1, got {self.shots} and {self.draws}"
        if self.l2 <= 0:
            yield f"l2 is above 0, and not {self.l2}"

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.both(model, unit=self.unit)
        metrics = {}
        for shots in self.shots:
            seeds = [(self.seed, shots, i) for i in range(self.draws)]
            draws = [few_of_each(train.labels, shots, np.random.default_rng(seed)) for seed in seeds]
            ranks = []
            for rows in draws:
                logistic = Logistic(train.features[rows], train.labels[rows], classes, self.max_iterations)
                ranks.append(linear_ranks(data.features, data.labels, *logistic.fit(self.l2)))
            every = np.stack(ranks)
            name = f"{self.name}/{shots}"
            metrics |= {f"{name}/top{k}": Sample((every <= k).mean(axis=0)) for k in self.ks}
            metrics[f"{name}/spread"] = float((every == 1).mean(axis=1).std())
        return metrics
