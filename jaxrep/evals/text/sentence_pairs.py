"""Pairs of texts: how similar they are, and whether they mean the same, by the cosine of their embeddings."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from jaxrep.data.source import Source
from jaxrep.errors import UsageError
from jaxrep.evals.base import Eval, missing_columns
from jaxrep.evals.embed import embed_texts
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class TextPairs(Eval):
    """Abstract: two texts an example, and a column that says how they are related.

    A tab-separated table is ``Csv(path="sts-test.tsv", separator="\\\\t", image="", text="sentence1",
    captions=("sentence2",))``; a Parquet table is read alike, and ``EmojiPairs`` comes with the package.
    """

    data: Source
    """The pairs."""
    first: str = "text"
    """Field of the first texts."""
    second: str = "text_2"
    """Field of the second texts."""
    tower: str = "text"
    """The model's tower for texts."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.tower,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from missing_columns(self.data, self.first, self.second)

    def judged(self, model: Model, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Cosines [N] of the pairs, and the column's numbers [N]."""
        examples = self.data.open()
        numbers = np.asarray(examples.column(column))
        if numbers.dtype.kind not in "biuf" or not np.isfinite(numbers).all():
            raise UsageError(f"the column '{column}' of the pairs holds something else than numbers")
        one, other = (list(examples.column(field)) for field in (self.first, self.second))
        texts, at = np.unique(one + other, return_inverse=True)  # many sentences stand in several pairs
        embeddings = embed_texts(model, texts.tolist(), self.tower).astype(np.float64)[at]
        return np.einsum("nd,nd->n", embeddings[: len(one)], embeddings[len(one) :]), numbers


@spec
class SentenceSimilarity(TextPairs):
    """Semantic textual similarity: correlation of the cosines with what people say (``spearman`` is what is reported,
    as in MTEB; ``pearson`` beside it)."""

    score: str = "score"
    """Column of the similarities that people gave."""
    name: str = "sts"
    """First part of the metrics' names."""

    def run(self, model: Model) -> dict[str, float]:
        cosines, scores = self.judged(model, self.score)
        if len(np.unique(scores)) < 2:
            raise UsageError(f"{self.name}: all pairs have the same {self.score}, so nothing correlates with it")
        return {
            f"{self.name}/spearman": correlation(stats.rankdata(cosines), stats.rankdata(scores)),
            f"{self.name}/pearson": correlation(cosines, scores),
        }


def correlation(x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> float:
    """Pearson's; of ranks, with ties at their mean, it is Spearman's. 0 where all values of a side are one."""
    x, y = x - x.mean(), y - y.mean()
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / lengths) if lengths else 0.0


@spec
class PairClassification(TextPairs):
    """Whether two texts mean the same: average precision, and the best accuracy and F1 over all thresholds."""

    label: str = "label"
    """Column that is 1 where they do, else 0."""
    name: str = "pairs"
    """First part of the metrics' names."""

    def run(self, model: Model) -> dict[str, float]:
        cosines, labels = self.judged(model, self.label)
        if not np.isin(labels, (0, 1)).all() or len(np.unique(labels)) < 2:
            raise UsageError(
                f"{self.name}: '{self.label}' is 1 for pairs that mean the same and 0 for others, both occur"
            )
        found = threshold_metrics(cosines, labels == 1)
        predicted = cosines >= found["accuracy_threshold"]
        return {
            **{f"{self.name}/{what}": value for what, value in found.items()},
            f"{self.name}/accuracy": Sample(predicted == (labels == 1)),
        }


def threshold_metrics(scores: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"]) -> dict[str, float]:
    """What is best over the thresholds at and above which a pair is taken to be positive.

    Returns:
        ``average_precision``: sum over thresholds of precision times the gain in recall; ``accuracy`` and ``f1`` with
        their thresholds, half way between two scores; ``precision`` and ``recall`` at the threshold of F1. As
        equal scores are on one side of any threshold, an order among them cannot help.
    """
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))  # a threshold is below all that are equal
    taken, positives = np.append(0, last + 1), int(labels.sum())  # or above all: none is taken
    hits = np.append(0, np.cumsum(labels)[last])
    precision, recall = hits / np.maximum(taken, 1), hits / positives
    f1 = 2 * hits / (taken + positives)
    accuracy = (hits + (len(labels) - positives) - (taken - hits)) / len(labels)
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
