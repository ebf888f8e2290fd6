"""Embed examples of a run's evaluation data, search among them, and classify them, for the report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrep.data.source import Examples, Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.evals.embed import unique_texts
from jaxrep.metrics.ranking import TIE, require_finite, unit_rows
from jaxrep.model import Model
from jaxrep.recipe import Recipe
from jaxrep.spec import children, difference, short_repr

MAX_EXAMPLES = 1_500
"""Examples per data set that are shown, evenly spaced."""
MAX_CLASSES = 40
"""Maximum number of classes in a confusion matrix."""


@dataclass(frozen=True)
class Predictions:
    """Hold the true and the predicted classes of the examples."""

    field: str
    names: Sequence[str]
    """Names of all classes."""
    labels: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    classifier: str
    """Description of the classifier."""


@dataclass(frozen=True)
class Space:
    """Hold embeddings of some examples of one data set."""

    data: str
    """Description of the data set."""
    total: int
    """Number of examples in the data set."""
    images: Sequence[Any]
    texts: Sequence[str]
    """One text per image (the first of several). Empty strings if there are none."""
    image: Float[np.ndarray, "n D"]
    text: Float[np.ndarray, "n D"] | None
    """None if the model or the data has no text."""
    match: Bool[np.ndarray, "n n"]
    """Whether text j is correct for image i."""
    nearest_mean: Predictions | None
    """Predictions by the nearest class mean. None without two classes."""
    zero_shot: Sequence[Predictions]
    """Predictions of each zero-shot evaluation."""


def spaces(model: Model, recipe: Recipe) -> Iterator[Space]:
    """Yield a space per data set with images among the recipe's evaluations.

    Raises:
        JaxrepError: The data cannot be read, or an embedding is not finite.
    """
    for data, evals in _data_sets(recipe.evals):
        yield _space(model, data, evals)


def _data_sets(evals: Sequence[Eval]) -> list[tuple[Source, list[Eval]]]:
    """Group evaluations by their data."""
    groups: list[tuple[Source, list[Eval]]] = []
    for evaluation in evals:
        data = children(evaluation).get("data")
        if isinstance(data, Source) and _column(evaluation, "image") in data.fields():
            if all(difference(other, data) for other, _ in groups):
                groups.append((data, []))
            next(members for other, members in groups if not difference(other, data)).append(evaluation)
    return groups


def _column(evaluation: Eval, role: str) -> str:
    """Return the name of an evaluation's column of images, texts or labels."""
    return str(children(evaluation).get(role, role))


def _space(model: Model, data: Source, evals: Sequence[Eval]) -> Space:
    examples = data.open()
    if not len(examples):
        raise JaxrepError(f"{short_repr(data)} holds no example")
    rows = examples.gather(np.unique(np.linspace(0, len(examples) - 1, MAX_EXAMPLES).round().astype(int)))
    image_column = _column(evals[0], "image")
    images = rows[image_column]
    image = model.encode_image(images, image_column)
    require_finite(image, lambda i: f"'{image_column}' number {i} of the examples shown")
    text_columns = (_column(e, "text") for e in evals if _column(e, "text") in (set(e.reads) & rows.keys()))
    text_column, text = next(text_columns, None), None
    values = rows.get(text_column or "text", [""] * len(images))
    texts = [value if isinstance(value, str) else value[0] for value in values]
    if text_column is not None:
        text = model.encode_text(texts, text_column)
        require_finite(text, lambda i: f"the text {texts[i]!r}")
    predictions = (_zero_shot(e, model, examples, rows, image) for e in evals)
    return Space(
        data=short_repr(data),
        total=len(examples),
        images=images,
        texts=texts,
        image=image,
        text=text,
        match=matches(rows.get(f"{image_column}_id"), rows.get(f"{text_column}_id"), texts),
        nearest_mean=_nearest_mean_predictions(examples, rows, evals, image),
        zero_shot=[prediction for prediction in predictions if prediction],
    )


def matches(image_ids: Any, text_ids: Any, texts: Sequence[str]) -> Bool[np.ndarray, "n n"]:
    """Return whether text j is correct for image i: some example pairs an image of i's id with a text of j's id."""
    n = len(texts)
    image = np.unique(image_ids, return_inverse=True)[1] if image_ids is not None else np.arange(n)
    first = None if text_ids is None else [np.ravel(ids)[0] for ids in text_ids]
    text = unique_texts(texts)[1] if first is None else np.unique(first, return_inverse=True)[1]
    paired = np.zeros((n, n), bool)
    paired[image, text] = True
    return paired[image[:, None], text[None, :]]


# Retrieval -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchResult:
    """Hold the first candidates of one query."""

    query: int
    rank: int
    """Rank of the best positive. A tie counts against it."""
    best: Sequence[int]
    """The first candidates."""
    similarity: Sequence[float]
    correct: Sequence[bool]
    target: int
    """The best positive."""


def search(
    queries: Float[np.ndarray, "n D"],
    gallery: Float[np.ndarray, "n D"],
    match: Bool[np.ndarray, "n n"],
    show: int = 6,
    first: int = 5,
) -> tuple[list[SearchResult], list[SearchResult]]:
    """Return some hits, evenly spaced over the queries with a positive at rank 1, and the worst misses."""
    similar = queries.astype(np.float64) @ gallery.astype(np.float64).T
    positive = np.where(match, similar, -np.inf)
    targets, threshold = positive.argmax(1), positive.max(1) - TIE
    ranks = 1 + np.count_nonzero((similar >= threshold[:, None]) & ~match, axis=1)
    hits, misses = np.flatnonzero(ranks == 1), np.flatnonzero(ranks > 1)
    some = hits[np.linspace(0, len(hits) - 1, min(show, len(hits))).round().astype(int)]
    worst = misses[np.argsort(-ranks[misses], kind="stable")[:show]]

    def result(query: int) -> SearchResult:
        # As for ranks, a negative precedes an equal positive.
        order = np.lexsort((match[query], -similar[query]))[:first]
        scores, correct = similar[query, order].tolist(), match[query, order].tolist()
        return SearchResult(query, int(ranks[query]), order.tolist(), scores, correct, int(targets[query]))

    return [result(i) for i in some.tolist()], [result(i) for i in worst.tolist()]


# Classes -------------------------------------------------------------------------------------------------------------


def _zero_shot(
    evaluation: Eval, model: Model, examples: Examples, rows: Mapping[str, Any], image: Float[np.ndarray, "n D"]
) -> Predictions | None:
    """Return None for another evaluation, or if it has more classes than a matrix shows."""
    if not isinstance(evaluation, ZeroShot):
        return None
    names = evaluation.classes or tuple(examples.classes.get(evaluation.label, ()))
    if not 2 <= len(names) <= MAX_CLASSES:
        return None
    predicted = (image @ evaluation.prototypes(model, names).T).argmax(1)
    labels = np.asarray(rows[evaluation.label])
    return Predictions(evaluation.label, names, labels, predicted, f"the nearest class name ({evaluation.name})")


def _nearest_mean_predictions(
    examples: Examples, rows: Mapping[str, Any], evals: Sequence[Eval], image: Float[np.ndarray, "n D"]
) -> Predictions | None:
    """Use the labels of an evaluation, or other labels of the data if these have only one class here."""
    for name in dict.fromkeys([*(_column(e, "label") for e in evals), *sorted(examples.classes)]):
        labels = np.asarray(rows.get(name, ()))
        present = np.unique(labels)
        if labels.ndim == 1 and labels.dtype.kind in "iu" and 2 <= len(present) <= MAX_CLASSES:
            index, classes = np.searchsorted(present, labels), examples.classes.get(name)
            names = [str(classes[i]) if classes else str(i) for i in present]
            nearest = _nearest_mean(image, index)
            return Predictions(name, names, index, nearest, "the nearest class mean (leave-one-out)")
    return None


def _nearest_mean(image: Float[np.ndarray, "n D"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return the class with the nearest mean, computed without the example itself."""
    members = np.eye(labels.max() + 1)[labels]
    sums, counts = members.T @ image, members.sum(0)
    similar = image @ unit_rows(sums).T
    others = unit_rows(sums[labels] - image)
    alone = counts[labels] == 1
    similar[np.arange(len(labels)), labels] = np.where(alone, -np.inf, np.einsum("nd,nd->n", image, others))
    return similar.argmax(1)
