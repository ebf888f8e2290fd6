"""Pairs of texts: semantic similarity and paraphrase classification, by the cosine of their embeddings."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from jaxrep.data.loading.readable import read_columns
from jaxrep.data.source import Source
from jaxrep.errors import UsageError
from jaxrep.evals.base import Eval, Model
from jaxrep.evals.embed import embed_each
from jaxrep.reads import Column, Output
from jaxrep.spec import spec


@spec
class SentencePairEval(Eval):
    r"""Measure a model on two texts per example, and a column that says how they are related.

    A tab-separated table is ``Csv(path="sts-test.tsv", separator="\\t", image="", text="sentence1",
    captions=("sentence2",))``. A Parquet table is declared in the same way. ``EmojiPairs`` is part of the package.
    """

    data: Source
    """The pairs."""
    first: Column = "text"
    """Column of the first texts."""
    second: Column = "text_2"
    """Column of the second texts."""
    tower: Output = "text"
    """The model's tower for texts."""

    def cosines(self, model: Model, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the cosines [N] of the pairs, and the numbers [N] of a column. A pair without a value is left out."""
        try:
            columns = read_columns(self.data.open(), (self.first, self.second, column))
        except (KeyError, UsageError) as error:  # a column that the fields of a source need not list
            kind = type(self.data).__name__
            raise UsageError(f"{self.name}: data ({kind}) has no column '{column}'") from error
        first, second, numbers = columns.values()
        if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
            raise UsageError(f"{self.name}: the column '{column}' of data does not hold finite numbers")
        rows = embed_each(model, sorted([*first, *second]), self.tower)  # many sentences are in several pairs
        a, b = (np.stack([rows[text] for text in side]).astype(np.float64) for side in (first, second))
        return np.einsum("nd,nd->n", a, b), numbers


@spec
class SentenceSimilarity(SentencePairEval):
    """Measure semantic textual similarity: the correlation of the cosines with human scores.

    Metrics:
        ``spearman``, which MTEB reports, and ``pearson``.
    """

    score: str = "score"
    """Column of the human scores."""
    name: str = "sts"

    def run(self, model: Model) -> dict[str, float]:
        cosines, scores = self.cosines(model, self.score)
        if len(np.unique(scores)) < 2:
            raise UsageError(f"{self.name}: all pairs have the same {self.score}, so nothing correlates with it")
        spearman = correlation(stats.rankdata(cosines), stats.rankdata(scores))
        return self.named({"spearman": spearman, "pearson": correlation(cosines, scores)})


def correlation(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
    """Return Pearson's correlation, or 0 if all values of one side are equal.

    The correlation of ranks, with ties at their mean, is Spearman's.
    """
    x, y = x - x.mean(), y - y.mean()
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / lengths) if lengths else 0.0


@spec
class PairClassification(SentencePairEval):
    """Measure paraphrase detection: average precision, and the best accuracy and F1 over all thresholds.

    Metrics:
        ``average_precision``; ``accuracy`` and ``f1`` at their best thresholds, ``accuracy_threshold`` and
        ``f1_threshold``; ``precision`` and ``recall`` at the threshold of F1.
    """

    label: str = "label"
    """Column with 1 for pairs of equal meaning, else 0."""
    name: str = "pairs"

    def run(self, model: Model) -> dict[str, float]:
        cosines, labels = self.cosines(model, self.label)
        if not np.isin(labels, (0, 1)).all() or len(np.unique(labels)) < 2:
            raise UsageError(f"{self.name}: '{self.label}' is 1 for pairs of equal meaning and 0 else; both must occur")
        metrics = threshold_metrics(cosines, labels == 1)
        return self.named(metrics | {"accuracy": (cosines >= metrics["accuracy_threshold"]) == (labels == 1)})


def threshold_metrics(scores: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]) -> dict[str, float]:
    """Return the best metrics over all thresholds. A pair with a score at or above the threshold is positive.

    Returns:
        ``average_precision``: sum over thresholds of precision times the gain in recall. ``accuracy`` and ``f1`` with
        their thresholds, half way between two scores. ``precision`` and ``recall`` at the threshold of F1. Equal scores
        are on one side of any threshold, so the order among them does not matter.
    """
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # a threshold is below all equal scores
    predicted, positives = np.append(0, last + 1), int(labels.sum())  # the first one is above all scores
    hits = np.append(0, np.cumsum(labels)[last])
    precision, recall = hits / np.maximum(predicted, 1), hits / positives
    f1 = 2 * hits / (predicted + positives)
    accuracy = (hits + (len(labels) - positives) - (predicted - hits)) / len(labels)
    below = np.append(scores[last[:-1] + 1], scores[-1])
    thresholds = np.append(np.nextafter(scores[0], np.inf), (scores[last] + below) / 2)
    return {
        "average_precision": float(np.sum(np.diff(recall) * precision[1:])),
        "accuracy": float(accuracy.max()),
        "accuracy_threshold": float(thresholds[accuracy.argmax()]),
        "f1": float(f1.max()),
        "f1_threshold": float(thresholds[f1.argmax()]),
        "precision": float(precision[f1.argmax()]),
        "recall": float(recall[f1.argmax()]),
    }
