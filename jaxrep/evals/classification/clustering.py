"""Clustering: agreement of k-means clusters of the features with the classes.

k-means uses Lloyd's steps from k-means++ seeds (Arthur and Vassilvitskii 2007). Normalized mutual information and the
adjusted Rand index (Hubert and Arabie 1985) compare clusters with labels, independent of their numbers.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Bool, Float, Int

from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.classification.labeled_eval import LabeledEval
from jaxrep.metrics.ranking import row_blocks
from jaxrep.spec import Count, Natural, spec

BLOCK_SIZE = 4096


@spec
class Clustering(LabeledEval):
    """Compare clusters of k-means, fitted without labels, with the labels.

    Metrics:
        ``nmi``, ``ari``, and ``accuracy``: the share of correct images under the best one-to-one assignment of
        clusters to classes.
    """

    clusters: Natural = 0
    """Number of clusters. 0: the number of classes that occur."""
    restarts: Count = 10
    """Number of k-means starts. The result with the least inertia is used."""
    max_iterations: Count = 300
    """Maximum number of steps per start."""
    normalize: bool = True
    """Whether to scale features to unit length first."""
    seed: Natural = 0
    """Seed of the starts."""
    name: str = "clustering"

    def run(self, model: Model) -> dict[str, float]:
        features, labels, *_ = self.embed(model, normalize=self.normalize)
        count = self.clusters or len(np.unique(labels))
        if count > len(labels):
            raise JaxrepError(f"{self.name}: {count} clusters need as many images, and there are {len(labels)}")
        starts = [np.random.default_rng((self.seed, start)) for start in range(self.restarts)]
        results = [k_means(features, count, random, max_iterations=self.max_iterations) for random in starts]
        clusters = min(results, key=lambda result: result.inertia).clusters
        nmi, ari = normalized_mutual_information(clusters, labels), adjusted_rand_index(clusters, labels)
        return self.named({"nmi": nmi, "ari": ari, "accuracy": matched(clusters, labels)})


class KMeansResult(NamedTuple):
    """Hold the result of k-means."""

    clusters: np.ndarray  # int64 [N]: per example
    centers: np.ndarray  # float64 [K,D]
    inertia: float  # sum of the squared distances to the centers


def k_means(
    features: Float[np.ndarray, "N D"], clusters: int, random: np.random.Generator, *, max_iterations: int = 300
) -> KMeansResult:
    """Run Lloyd's algorithm from one k-means++ start, until no example changes its cluster.

    An empty cluster keeps its center.
    """
    centers = k_means_seeds(features, clusters, random)
    assigned = np.empty(0)
    for _ in range(max_iterations):
        before, (assigned, _) = assigned, _assign(features, centers)
        if np.array_equal(assigned, before):
            break
        counts = np.bincount(assigned, minlength=clusters)
        filled = counts > 0
        centers[filled] = _sums(features, assigned, clusters)[filled] / counts[filled, None]
    assigned, inertia = _assign(features, centers)
    return KMeansResult(assigned, centers, inertia)


def k_means_seeds(features: np.ndarray, clusters: int, random: np.random.Generator) -> np.ndarray:
    """Draw k-means++ seeds float64 [K,D]: examples, by the squared distance to the nearest earlier seed."""
    centers = [features[random.integers(len(features))].astype(np.float64)]
    distance = np.full(len(features), np.inf)
    for _ in range(clusters - 1):
        distance = np.minimum(distance, _distances(features, centers[-1][None])[:, 0])
        total = distance.sum()
        share = distance / total if total > 0 else None  # fewer different examples than clusters
        centers.append(features[random.choice(len(features), p=share)].astype(np.float64))
    return np.stack(centers)


def _distances(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return squared distances float64 [n,K], at least 0."""
    square = np.einsum("nd,nd->n", features, features, dtype=np.float64)[:, None] + (centers**2).sum(axis=1)
    return np.maximum(square - 2 * (features @ centers.T), 0)


def _assign(features: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the nearest center per example, and the sum of squared distances to them."""
    assigned, inertia = [], 0.0
    for rows in row_blocks(len(features), BLOCK_SIZE):
        distance = _distances(features[rows], centers)
        assigned.append(distance.argmin(axis=1))
        inertia += float(distance.min(axis=1).sum())
    return np.concatenate(assigned), inertia


def _sums(features: np.ndarray, assigned: np.ndarray, clusters: int) -> np.ndarray:
    """Sum the examples per cluster: float64 [K,D]."""
    total = np.zeros((clusters, features.shape[1]))
    for rows in row_blocks(len(features), BLOCK_SIZE):
        member = assigned[rows] == np.arange(clusters)[:, None]
        total += member.astype(np.float64) @ features[rows]
    return total


def contingency(a: Int[np.ndarray, " N"], b: Int[np.ndarray, " N"]) -> Int[np.ndarray, "A B"]:
    """Count the examples per pair of values of ``a`` and ``b``."""
    return np.asarray(scipy.stats.contingency.crosstab(a, b).count)


def normalized_mutual_information(a: Int[np.ndarray, " N"], b: Int[np.ndarray, " N"]) -> float:
    """Return ``I(a; b)`` over the mean of the two entropies, from 0 to 1. It is 1 if both are one group."""
    joint = contingency(a, b) / len(a)
    entropies = [_entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))]
    if not any(entropies):
        return 1.0
    return float(max(sum(entropies) - _entropy(joint.ravel()), 0) / np.mean(entropies))


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def adjusted_rand_index(a: Int[np.ndarray, " N"], b: Int[np.ndarray, " N"]) -> float:
    """Return the share of pairs on which both agree, corrected for chance: 0 if independent, 1 if equal."""
    table = contingency(a, b)
    both, rows, columns = (_pairs(counts) for counts in (table, table.sum(axis=1), table.sum(axis=0)))
    expected = rows * columns / max(_pairs(np.array([len(a)])), 1)
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else float((both - expected) / (largest - expected))


def _pairs(counts: np.ndarray) -> float:
    counts = counts.astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())


def matched(clusters: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Return which examples are correct under the best assignment of clusters to labels (Kuhn 1955).

    Each cluster gets at most one label, and each label one cluster, so that most examples are correct.
    """
    (values, i), (_, j) = np.unique(clusters, return_inverse=True), np.unique(labels, return_inverse=True)
    label_of = np.full(len(values), -1)
    at, label = scipy.optimize.linear_sum_assignment(contingency(clusters, labels), maximize=True)
    label_of[at] = label
    return label_of[i] == j
