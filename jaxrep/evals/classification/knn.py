"""k nearest neighbors: classify an image by votes of the most similar training images.

The votes are weighted (Wu et al. 2018, arXiv:1805.01978, section 3.4; Caron et al. 2021, DINO) or counted.
"""

import numpy as np
from jaxtyping import Float, Int

from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.classification.labeled_eval import FittedEval
from jaxrep.metrics.ranking import Gallery, Queries, row_blocks
from jaxrep.spec import Count, Positive, spec


@spec
class Knn(FittedEval):
    """Measure accuracy by votes of the k training images of highest cosine.

    A tie counts against the model.

    Metrics:
        ``<k>/top<n>``, ``<k>/mean_per_class``: with votes weighted by exp(cosine / temperature).
        ``<k>/majority/top<n>``, ``<k>/majority/mean_per_class``: with equal votes.
    """

    neighbors: tuple[Count, ...] = (20,)
    """Numbers k of neighbors that vote."""
    temperature: Positive = 0.07
    """Temperature of the weights."""
    name: str = "knn"

    def run(self, model: Model) -> dict[str, float]:
        train, data, classes = self.train_and_data(model)
        largest = max(self.neighbors)
        if largest > len(train.labels):
            raise JaxrepError(f"{self.name}: {largest} neighbors need as many images; train has {len(train.labels)}")
        similarity, index = most_similar(data.features, train.features, largest)
        weights = np.exp((similarity - 1) / self.temperature)  # a common factor changes no vote, and 1 is the largest
        metrics = {}
        for k in self.neighbors:
            voters = train.labels[index[:, :k]]
            for name, vote in ((f"{k}", weights[:, :k]), (f"{k}/majority", np.ones_like(weights[:, :k]))):
                ranks = vote_ranks(voters, vote, data.labels, classes)
                metrics |= self.accuracies(ranks, data.labels, f"{self.name}/{name}")
        return metrics


def most_similar(
    queries: Queries, gallery: Gallery, k: int, *, block_size: int = 2048
) -> tuple[Float[np.ndarray, "Q k"], Int[np.ndarray, "Q k"]]:
    """Return the k candidates of highest dot product per query: similarities float32, the highest first, and indices.

    The result is exact up to the rounding of float32 sums. Of equal candidates the earlier one comes first. If not all
    equal candidates fit, any of them are returned.

    Args:
        queries: [Q,D].
        gallery: [G,D].
        k: At most the number of candidates.
        block_size: Queries and candidates per block. Memory is ``block_size**2`` numbers.
    """
    similarities, indices = [], []
    for block in (queries[rows] for rows in row_blocks(len(queries), block_size)):
        best, at = np.empty((len(block), 0), np.float32), np.empty((len(block), 0), np.int64)
        for rows in row_blocks(len(gallery), block_size):
            similarity = block @ gallery[rows].T
            numbers = np.broadcast_to(np.arange(rows.start, rows.stop), similarity.shape)
            best, at = np.concatenate([best, similarity], 1), np.concatenate([at, numbers], 1)
            kept = np.argpartition(best, -min(k, best.shape[1]), axis=1)[:, -k:]
            best, at = np.take_along_axis(best, kept, 1), np.take_along_axis(at, kept, 1)
        order = np.lexsort((at, -best), axis=1)
        similarities.append(np.take_along_axis(best, order, 1))
        indices.append(np.take_along_axis(at, order, 1))
    return np.concatenate(similarities), np.concatenate(indices)


def vote_ranks(
    voters: Int[np.ndarray, "N k"],
    weights: Float[np.ndarray, "N k"],
    labels: Int[np.ndarray, " N"],
    classes: int,
    *,
    block_size: int = 4096,
) -> Int[np.ndarray, " N"]:
    """Rank the class of each image by the summed weights of its neighbors, whose classes are ``voters``, from 1."""
    ranks = []
    for block in row_blocks(len(labels), block_size):
        rows = np.arange(len(labels[block]))
        cells = (rows[:, None] * classes + voters[block]).ravel()
        votes = np.bincount(cells, weights[block].ravel(), len(rows) * classes).reshape(-1, classes)
        correct = votes[rows, labels[block]][:, None]
        # Sums of equal votes in another order tie.
        ranks.append(np.count_nonzero(votes >= correct * (1 - 1e-9), axis=1))
    return np.concatenate(ranks)
