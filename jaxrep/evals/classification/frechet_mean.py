"""Prediction by a Fréchet mean: the class that is nearest, in a metric of the classes, to all that the model thinks.

Roberts et al. 2023 (Loki), Geometry-Aware Adaptation for Pretrained Models (arXiv:2307.12226). A class that the model
knows nothing of can be predicted, as it lies between others.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from jaxrep.errors import UsageError
from jaxrep.evals.classification.zero_shot import ClassNamesEval, class_embeddings, template_problems
from jaxrep.evals.embed import logit_scale
from jaxrep.metrics.calibration import softmax
from jaxrep.metrics.ranking import ranks
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class FrechetMean(ClassNamesEval):
    """Accuracy of ``argmin_y sum_k p_k d(y, k)^2``, p the zero-shot probabilities, and the mean squared distance to the
    right class: ``frechet/squared_distance``, and of the likeliest class ``frechet/argmax_squared_distance``.
    """

    templates: tuple[str, ...] = ("{}",)
    """Sentences with {} for the name; embeddings of a class's sentences are averaged."""
    distances: str = ""
    """A .npy file of distances between the classes, [K,K]; empty: between the embeddings of their names."""
    observed: tuple[int, ...] = ()
    """Labels of the classes that have a probability; empty: all."""
    temperature: float = 0.0
    """Temperature of the probabilities; 0: what the model has learned."""
    name: str = "frechet"
    """First part of the metrics' names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from template_problems(self.templates)
        if self.temperature < 0:
            yield f"temperature is above 0, or 0 for the model's own, and not {self.temperature}"
        if len(set(self.observed)) < len(self.observed) or min(self.observed, default=0) < 0:
            yield f"observed holds labels, from 0, each once, and is {self.observed}"

    def run(self, model: Model) -> dict[str, float]:
        images, labels, names = self.named(model)
        known = np.array(self.observed or range(len(names)))
        if known.max() >= len(names):
            raise UsageError(f"{self.name}: observed holds the label {known.max()}, and there are {len(names)} classes")
        prototypes = class_embeddings(model, names, self.templates, self.text)
        squared = self._distances(prototypes) ** 2
        sure = logit_scale(model, self.temperature)
        found, predicted, likeliest = [], [], []
        for start in range(0, len(images), 1024):
            p = softmax(sure * (images[start : start + 1024] @ prototypes[known].T))
            found.append(ranks(p, -squared[:, known], (np.arange(len(p)), labels[start : start + 1024])))
            predicted.append(frechet_mean(p, squared[:, known]))
            likeliest.append(known[p.argmax(axis=1)])
        return self.accuracies(np.concatenate(found), labels) | {
            f"{self.name}/squared_distance": Sample(squared[np.concatenate(predicted), labels]),
            f"{self.name}/argmax_squared_distance": Sample(squared[np.concatenate(likeliest), labels]),
        }

    def _distances(self, prototypes: np.ndarray) -> np.ndarray:
        """float64 [K,K]. Raises UsageError: the file is none of such a matrix."""
        if not self.distances:
            unit = prototypes.astype(np.float64)
            squares = np.einsum("kd,kd->k", unit, unit)
            return np.sqrt(np.maximum(squares[:, None] + squares - 2 * unit @ unit.T, 0))
        try:
            found = np.asarray(np.load(self.distances, allow_pickle=False), np.float64)
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{self.name}: the distances cannot be read: {error}") from error
        classes = len(prototypes)
        if found.shape != (classes, classes) or not np.isfinite(found).all() or found.min() < 0:
            raise UsageError(
                f"{self.name}: {self.distances} holds an array of shape {found.shape}; distances of {classes} classes "
                f"are ({classes}, {classes}) and 0 or more"
            )
        return found


def frechet_mean(p: Float[np.ndarray, "N K"], squared: Float[np.ndarray, "Y K"]) -> np.ndarray:
    """int64 [N]: the label y of the least ``sum_k p_k d(y, k)^2``, of equal ones the first."""
    return (p @ squared.T).argmin(axis=1)
