"""Clustering: whether groups that k-means finds in the features are the classes.

k-means by Lloyd's steps from k-means++ seeds (Arthur and Vassilvitskii 2007); normalized mutual information and the
adjusted Rand index (Hubert and Arabie 1985) compare clusters with labels, whatever their numbers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Bool, Float, Int

from jaxrep.errors import JaxrepError
from jaxrep.evals.classification.labeled_eval import LabeledEval
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec

BLOCK = 4096


@spec
class Clustering(LabeledEval):
    """``clustering/nmi``, ``clustering/ari`` and ``clustering/accuracy``: the share that is right where each cluster
    stands for one class, as many as can be."""

    clusters: int = 0
    """Number of clusters; 0: of the classes that occur."""
    restarts: int = 10
    """How often k-means starts anew; the closest clusters are taken."""
    max_iterations: int = 300
    """Most steps of one start."""
    unit: bool = True
    """Whether features are scaled to unit length first."""
    seed: int = 0
    """Of the starts."""
    name: str = "clustering"
    """First part of the metrics' names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.clusters < 0 or self.restarts < 1 or self.max_iterations < 1:
            yield f"clusters is 0 or more, restarts and max_iterations at least 1, got {self.clusters}, " + (
                f"{self.restarts} and {self.max_iterations}"
            )

    def run(self, model: Model) -> dict[str, float]:
        features, labels, _ = self.pictures(model, self.data, unit=self.unit)
        clusters = self.clusters or len(np.unique(labels))
        if clusters > len(labels):
            raise JaxrepError(f"{self.name}: {clusters} clusters are asked for, and there are {len(labels)} pictures")
        starts = [np.random.default_rng((self.seed, start)) for start in range(self.restarts)]
        tries = [k_means(features, clusters, random, max_iterations=self.max_iterations) for random in starts]
        found = min(tries, key=lambda each: each.inertia).clusters
        return {
            f"{self.name}/nmi": normalized_mutual_information(found, labels),
            f"{self.name}/ari": adjusted_rand_index(found, labels),
            f"{self.name}/accuracy": Sample(matched(found, labels)),
        }


class Clusters(NamedTuple):
    """What k-means found."""

    clusters: np.ndarray  # int64 [N]: of each example
    centers: np.ndarray  # float64 [K,D]
    inertia: float  # sum of the squared distances to the centers


def k_means(
    features: Float[np.ndarray, "N D"], clusters: int, random: np.random.Generator, *, max_iterations: int = 300
) -> Clusters:
    """Lloyd's algorithm from one k-means++ start, until no example changes its cluster. An empty cluster stays where it
    is."""
    centers = seeds(features, clusters, random)
    before = None
    for _ in range(max_iterations):
        found, inertia = _assign(features, centers)
        if before is not None and np.array_equal(found, before):
            break
        before = found
        counts = np.bincount(found, minlength=clusters)
        filled = counts > 0
        centers[filled] = _sums(features, found, clusters)[filled] / counts[filled, None]
    found, inertia = _assign(features, centers)
    return Clusters(found, centers, inertia)


def seeds(features: np.ndarray, clusters: int, random: np.random.Generator) -> np.ndarray:
    """k-means++: float64 [K,D], each drawn from the examples by the squared distance to the nearest one before."""
    chosen = features[random.integers(len(features))].astype(np.float64)
    centers, distance = [chosen], np.full(len(features), np.inf)
    for _ in range(clusters - 1):
        distance = np.minimum(distance, _distances(features, centers[-1][None])[:, 0])
        total = distance.sum()
        share = distance / total if total > 0 else None  # fewer different examples than clusters
        centers.append(features[random.choice(len(features), p=share)].astype(np.float64))
    return np.stack(centers)


def _distances(features: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Squared, float64 [n,K], at least 0."""
    square = np.einsum("nd,nd->n", features, features, dtype=np.float64)[:, None] + (centers**2).sum(axis=1)
    return np.maximum(square - 2 * (features @ centers.T), 0)


def _assign(features: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, float]:
    """Each example's nearest center, and the sum of squared distances to them."""
    found, inertia = [], 0.0
    for start in range(0, len(features), BLOCK):
        distance = _distances(features[start : start + BLOCK], centers)
        found.append(distance.argmin(axis=1))
        inertia += float(distance.min(axis=1).sum())
    return np.concatenate(found), inertia


def _sums(features: np.ndarray, found: np.ndarray, clusters: int) -> np.ndarray:
    """float64 [K,D]: the sum of the examples of each cluster."""
    total = np.zeros((clusters, features.shape[1]))
    for start in range(0, len(features), BLOCK):
        member = found[start : start + BLOCK] == np.arange(clusters)[:, None]
        total += member.astype(np.float64) @ features[start : start + BLOCK]
    return total


def contingency(a: Int[np.ndarray, " N"], b: Int[np.ndarray, " N"]) -> Int[np.ndarray, "A B"]:
    """How many examples have each pair of values of ``a`` and ``b``."""
    (first, i), (second, j) = np.unique(a, return_inverse=True), np.unique(b, return_inverse=True)
    return np.bincount(i * len(second) + j, minlength=len(first) * len(second)).reshape(len(first), len(second))


def normalized_mutual_information(a: Int[np.ndarray, " N"], b: Int[np.ndarray, " N"]) -> float:
    """``I(a; b)`` over the mean of the two entropies, from 0 to 1; 1 where both are one group."""
    joint = contingency(a, b) / len(a)
    entropies = [_entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))]
    if not any(entropies):
        return 1.0
    return float(max(sum(entropies) - _entropy(joint.ravel()), 0) / np.mean(entropies))


def _entropy(shares: np.ndarray) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def adjusted_rand_index(a: Int[np.ndarray, " N"], b: Int[np.ndarray, " N"]) -> float:
    """The share of pairs on which both agree, corrected for chance: 0 where they are independent, 1 where they are the
    same."""
    table = contingency(a, b)
    together, rows, columns = (_pairs(each) for each in (table, table.sum(axis=1), table.sum(axis=0)))
    expected = rows * columns / max(_pairs(np.array([len(a)])), 1)
    most = (rows + columns) / 2
    return 1.0 if most == expected else float((together - expected) / (most - expected))


def _pairs(counts: np.ndarray) -> float:
    counts = counts.astype(np.float64)
    return float((counts * (counts - 1) / 2).sum())


def matched(clusters: Int[np.ndarray, " N"], labels: Int[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Which examples are right where each cluster stands for at most one label and each label for one cluster, so that
    as many as possible are right (Kuhn 1955)."""
    (first, i), (_, j) = np.unique(clusters, return_inverse=True), np.unique(labels, return_inverse=True)
    stands = np.full(len(first), -1)
    at, label = scipy.optimize.linear_sum_assignment(contingency(clusters, labels), maximize=True)
    stands[at] = label
    return stands[i] == j
