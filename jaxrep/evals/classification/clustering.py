"""Clustering: agreement of k-means clusters of the features with the classes.

k-means uses Lloyd's steps from k-means++ seeds (Arthur and Vassilvitskii 2007). Normalized mutual information and the
adjusted Rand index (Hubert and Arabie 1985) compare clusters with labels, independent of their numbers. The indices of
Calinski and Harabasz (1974) and of Davies and Bouldin (1979) tell how far clusters are apart, without labels.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.spatial
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
        clusters to classes. ``calinski_harabasz`` (higher is better) and ``davies_bouldin`` (lower is better): how far
        the clusters are apart; left out if there is one cluster, or as many as images.
    """

    clusters: Natural = 0
    """Number of clusters. 0: the number of classes that occur."""
    restarts: Count = 10
    """Number of k-means starts. The result with the least inertia is used."""
    max_iterations: Count = 300
    """Maximum number of steps per start."""
    normalize: bool = True
    """Whether to scale features to unit length first."""
    components: Natural = 0
    """Number of principal components by which features are replaced. 0: none."""
    seed: Natural = 0
    """Seed of the starts."""
    name: str = "clustering"

    def run(self, model: Model) -> dict[str, float]:
        features, labels, *_ = self.embed(model, normalize=self.normalize)
        if self.components:
            if self.components > min(features.shape):
                raise JaxrepError(f"{self.name}: {features.shape} features have no {self.components} components")
            features = principal_components(features, self.components)
        count = self.clusters or len(np.unique(labels))
        if count > len(labels):
            raise JaxrepError(f"{self.name}: {count} clusters need as many images, and there are {len(labels)}")
        starts = [np.random.default_rng((self.seed, start)) for start in range(self.restarts)]
        results = [k_means(features, count, random, max_iterations=self.max_iterations) for random in starts]
        clusters = min(results, key=lambda result: result.inertia).clusters
        nmi, ari = normalized_mutual_information(clusters, labels), adjusted_rand_index(clusters, labels)
        metrics = {"nmi": nmi, "ari": ari, "accuracy": matched(clusters, labels)}
        if 1 < len(np.unique(clusters)) < len(clusters):
            metrics["calinski_harabasz"] = calinski_harabasz(features, clusters)
            metrics["davies_bouldin"] = davies_bouldin(features, clusters)
        return self.named(metrics)


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


def principal_components(features: Float[np.ndarray, "N D"], count: int) -> Float[np.ndarray, "N count"]:
    """Return the coordinates of features along the directions of their largest variances, those first."""
    centered = features - features.mean(axis=0, dtype=np.float64)
    _, directions = np.linalg.eigh(centered.T @ centered)
    return centered @ directions[:, : -count - 1 : -1]


def calinski_harabasz(features: Float[np.ndarray, "N D"], clusters: Int[np.ndarray, " N"]) -> float:
    """Return the variance between K clusters over that within them, each over its degrees of freedom, at least 0.

    It is 1 if nothing varies within the clusters, as in scikit-learn.
    """
    x, centers, index = _centered_clusters(features, clusters)
    within = float((x**2).sum())
    between = float((np.bincount(index) * (centers**2).sum(axis=1)).sum())
    return between * (len(x) - len(centers)) / (within * (len(centers) - 1)) if within > 0 else 1.0


def davies_bouldin(features: Float[np.ndarray, "N D"], clusters: Int[np.ndarray, " N"]) -> float:
    """Return the mean over clusters of ``max (s_i + s_j) / d_ij``, at least 0.

    ``s`` is the mean distance of a cluster's examples to their center, and ``d`` the distance of two centers. Clusters
    of one center are passed over, as in scikit-learn.
    """
    x, centers, index = _centered_clusters(features, clusters)
    spread = np.bincount(index, np.sqrt((x**2).sum(axis=1))) / np.bincount(index)
    distance = scipy.spatial.distance.cdist(centers, centers)
    ratios = np.divide(spread[:, None] + spread, distance, out=np.zeros_like(distance), where=distance > 0)
    return float(ratios.max(axis=1).mean())


def _centered_clusters(features: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features minus the center of their cluster, the centers minus their mean over examples, and the clusters.

    All are float64; clusters are numbered from 0.
    """
    x = features - features.mean(axis=0, dtype=np.float64)
    _, index = np.unique(clusters, return_inverse=True)
    centers = _sums(x, index, index.max() + 1) / np.bincount(index)[:, None]
    return x - centers[index], centers, index
