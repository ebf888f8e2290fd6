"""Prediction by a Fréchet mean: the class with the least expected squared distance in a metric between classes.

Roberts et al. 2023 (Loki), Geometry-Aware Adaptation for Pretrained Models (arXiv:2307.12226). It can predict a class
without a probability, if the class lies between others.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from jaxrep.errors import UsageError
from jaxrep.evals.base import Model
from jaxrep.evals.classification.zero_shot import PromptedEval
from jaxrep.evals.embed import logit_scale
from jaxrep.metrics.calibration import softmax
from jaxrep.metrics.ranking import best_ranks, row_blocks
from jaxrep.npy import read_npy
from jaxrep.spec import Natural, spec


@spec
class FrechetMean(PromptedEval):
    """Measure accuracy of ``argmin_y sum_k p_k d(y, k)^2`` with the zero-shot probabilities p.

    Metrics:
        ``top<k>``, ``mean_per_class``. ``squared_distance``: mean squared distance of the prediction to the correct
        class. ``argmax_squared_distance``: the same for the most likely class.
    """

    distances: str = ""
    """A .npy file of distances between the classes, [K,K]. Empty: distances between the embeddings of their names."""
    observed: tuple[Natural, ...] = ()
    """Labels of the classes that have a probability. Empty: all."""
    name: str = "frechet"

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if len(set(self.observed)) < len(self.observed):
            yield f"observed holds each label once, got {self.observed}"

    def run(self, model: Model) -> dict[str, float]:
        images, labels, names, _ = self.embed_with_names(model)
        observed = np.array(self.observed or range(len(names)))
        if observed.max() >= len(names):
            raise UsageError(f"{self.name}: observed holds label {observed.max()}, and there are {len(names)} classes")
        prototypes = self.prototypes(model, names)
        squared = self._distances(prototypes) ** 2
        scale = logit_scale(model, self.temperature)
        class_ranks, predicted, likeliest = [], [], []
        for rows in row_blocks(len(images), 1024):
            p = softmax(scale * (images[rows] @ prototypes[observed].T))
            class_ranks.append(best_ranks(p, -squared[:, observed], (np.arange(len(p)), labels[rows])))
            predicted.append(frechet_mean(p, squared[:, observed]))
            likeliest.append(observed[p.argmax(axis=1)])
        found, likely = (squared[np.concatenate(chosen), labels] for chosen in (predicted, likeliest))
        distances = self.named({"squared_distance": found, "argmax_squared_distance": likely})
        return self.accuracies(np.concatenate(class_ranks), labels) | distances

    def _distances(self, prototypes: np.ndarray) -> np.ndarray:
        """Return distances float64 [K,K]. Raises UsageError: the file holds no such matrix."""
        if not self.distances:
            unit = prototypes.astype(np.float64)
            squares = np.einsum("kd,kd->k", unit, unit)
            return np.sqrt(np.maximum(squares[:, None] + squares - 2 * unit @ unit.T, 0))
        try:
            with open(self.distances, "rb") as file:
                matrix = np.asarray(read_npy(file), np.float64)
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{self.name}: the distances cannot be read: {error}") from error
        shape = (len(prototypes), len(prototypes))
        if matrix.shape != shape or not np.isfinite(matrix).all() or matrix.min() < 0:
            raise UsageError(
                f"{self.name}: {self.distances} holds an array of shape {matrix.shape}; distances of {shape[0]} "
                f"classes have shape {shape} and are 0 or more"
            )
        return matrix


def frechet_mean(p: Float[np.ndarray, "N K"], squared: Float[np.ndarray, "Y K"]) -> np.ndarray:
    """Return the label y with the least ``sum_k p_k d(y, k)^2`` per row, the first of equal ones: int64 [N]."""
    return (p @ squared.T).argmin(axis=1)
