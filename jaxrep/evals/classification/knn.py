"""k nearest neighbors: the class of a picture by votes of the training pictures that are most similar to it.

Weighted as in Wu et al. 2018 (arXiv:1805.01978, section 3.4) and Caron et al. 2021 (DINO), and plain.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from jaxrep.errors import JaxrepError
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class Knn(FittedEval):
    """Accuracy by votes of the k training pictures of highest cosine: ``knn/<k>/top1`` weighs each vote by
    exp(cosine / temperature), ``knn/<k>/majority/top1`` counts them.

    A tie of votes counts against the model.
    """

    neighbors: tuple[int, ...] = (20,)
    """Numbers k of neighbors that vote."""
    temperature: float = 0.07
    """Of the weights."""
    name: str = "knn"
    """First part of the metrics' names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.neighbors or min(self.neighbors) < 1:
            yield f"neighbors counts pictures, from 1, and is not {self.neighbors}"
        if self.temperature <= 0:
            yield f"temperature is above 0, and not {self.temperature}"

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.both(model)
        most = max(self.neighbors)
        if most > len(train.labels):
            raise JaxrepError(f"{self.name}: {most} neighbors are asked for, and train holds {len(train.labels)}")
        similarity, index = most_similar(data.features, train.features, most)
        weights = np.exp((similarity - 1) / self.temperature)  # a common factor changes no vote, and 1 is the largest
        metrics = {}
        for k in self.neighbors:
            voters = train.labels[index[:, :k]]
            for name, each in ((f"{k}", weights[:, :k]), (f"{k}/majority", np.ones_like(weights[:, :k]))):
                found = vote_ranks(voters, each, data.labels, classes)
                metrics |= self.accuracies(found, data.labels, f"{self.name}/{name}")
        return metrics


def most_similar(
    queries: Float[np.ndarray, "Q D"], gallery: Float[np.ndarray, "G D"], k: int, *, block_size: int = 2048
) -> tuple[Float[np.ndarray, "Q k"], Int[np.ndarray, "Q k"]]:
    """The k candidates of highest dot product with each query: similarities float32, the highest first, and indices.

    Exact but for the rounding of float32 sums; of equal ones the earlier candidate comes first, and where not all of
    them fit, any of them are taken.

    Args:
        k: at most the number of candidates.
        block_size: queries and candidates looked at together; memory is ``block_size**2`` numbers.
    """
    similarities, indices = [], []
    for start in range(0, len(queries), block_size):
        block = queries[start : start + block_size]
        best = np.empty((len(block), 0), np.float32)
        at = np.empty((len(block), 0), np.int64)
        for first in range(0, len(gallery), block_size):
            found = block @ gallery[first : first + block_size].T
            numbers = np.broadcast_to(np.arange(first, first + found.shape[1]), found.shape)
            best, at = _highest(np.concatenate([best, found], 1), np.concatenate([at, numbers], 1), k)
        order = np.lexsort((at, -best), axis=1)
        similarities.append(np.take_along_axis(best, order, 1))
        indices.append(np.take_along_axis(at, order, 1))
    return np.concatenate(similarities), np.concatenate(indices)


def _highest(values: np.ndarray, numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest of each row, in any order, with their numbers."""
    if values.shape[1] <= k:
        return values, numbers
    kept = np.argpartition(values, -k, axis=1)[:, -k:]
    return np.take_along_axis(values, kept, 1), np.take_along_axis(numbers, kept, 1)


def vote_ranks(
    voters: Int[np.ndarray, "N k"],
    weights: Float[np.ndarray, "N k"],
    labels: Int[np.ndarray, " N"],
    classes: int,
    *,
    block_size: int = 4096,
) -> Int[np.ndarray, " N"]:
    """Rank of each picture's class by the sum of the weights of its neighbors, of classes ``voters``, from 1."""
    found = []
    for start in range(0, len(labels), block_size):
        cut = slice(start, start + block_size)
        rows = np.arange(len(labels[cut]))
        place = (rows[:, None] * classes + voters[cut]).ravel()
        votes = np.bincount(place, weights[cut].ravel(), len(rows) * classes).reshape(-1, classes)
        right = votes[rows, labels[cut]][:, None]
        found.append(np.count_nonzero(votes >= right * (1 - 1e-9), axis=1))  # sums of equal votes in another order tie
    return np.concatenate(found)
