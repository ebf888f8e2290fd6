"""What the model of a run makes of its evaluation data: embeddings of some examples, what is found with them, and what
is taken for what."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrep.data.source import Examples, Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.evals.embed import embed_texts
from jaxrep.metrics.ranking import TIE, require_finite, unit_rows
from jaxrep.model import Model
from jaxrep.prompts import class_embeddings
from jaxrep.recipe import Recipe
from jaxrep.spec import children, difference, short_repr

EXAMPLES = 1_500
"""Examples of a data set that are shown, evenly spread over it."""
CLASSES = 40
"""Classes that a matrix shows at most."""


@dataclass(frozen=True)
class Labels:
    """Classes of the examples, and those that the model takes them for."""

    field: str
    names: Sequence[str]
    """Of all classes that an example could be taken for."""
    right: Int[np.ndarray, " n"]
    taken: Int[np.ndarray, " n"]
    by: str
    """How the model decides, in words."""


@dataclass(frozen=True)
class Space:
    """Some examples of one data set as a model places them."""

    data: str
    """The data set, in words."""
    total: int
    """Examples that it has."""
    pictures: Sequence[Any]
    texts: Sequence[str]
    """One a picture (the first of several); empty strings where there are none."""
    image: Float[np.ndarray, "n D"]
    text: Float[np.ndarray, "n D"] | None
    """None where the model or the data has no text."""
    match: Bool[np.ndarray, "n n"]
    """Whether text j is right for picture i."""
    labels: Labels | None
    """At least two classes that occur, by the nearest mean."""
    zeroshot: Sequence[Labels]
    """By the names of the classes, of each such evaluation."""


def spaces(model: Model, recipe: Recipe) -> Iterator[Space]:
    """One for each data set among the recipe's evaluations that has pictures.

    Raises JaxrepError: the data cannot be read, an embedding is not finite.
    """
    for data, evals in _data_sets(recipe.evals):
        yield _space(model, data, evals)


def _data_sets(evals: Sequence[Eval]) -> list[tuple[Source, list[Eval]]]:
    found: list[tuple[Source, list[Eval]]] = []
    for each in evals:
        data = children(each).get("data")
        if not isinstance(data, Source) or _field(each, "image") not in data.fields():
            continue
        known = next((evals for other, evals in found if not difference(other, data)), None)
        if known is None:
            found.append((data, [each]))
        else:
            known.append(each)
    return found


def _field(each: Eval, role: str) -> str:
    """The name of an evaluation's field of images, texts or labels."""
    return str(children(each).get(role, role))


def _space(model: Model, data: Source, evals: Sequence[Eval]) -> Space:
    examples = data.open()
    if not len(examples):
        raise JaxrepError(f"{short_repr(data)} holds no example")
    rows = examples.gather(np.unique(np.linspace(0, len(examples) - 1, EXAMPLES).round().astype(int)))
    image = _field(evals[0], "image")
    pictures = rows[image]
    embedded = model.encode_image(pictures, image)
    require_finite(embedded, lambda i: f"'{image}' number {i} of the examples shown")
    reading = next((each for each in evals if _field(each, "text") in (set(each.reads) & rows.keys())), None)
    name = None if reading is None else _field(reading, "text")
    given = rows.get(name or "text", [""] * len(pictures))
    texts = [text if isinstance(text, str) else text[0] for text in given]
    placed = None
    if name is not None:
        placed = model.encode_text(texts, name)
        require_finite(placed, lambda i: f"the text {texts[i]!r}")
    return Space(
        data=short_repr(data),
        total=len(examples),
        pictures=pictures,
        texts=texts,
        image=embedded,
        text=placed,
        match=matches(rows.get(f"{image}_id"), rows.get(f"{name}_id"), texts),
        labels=_labels(examples, rows, evals, embedded),
        zeroshot=[labels for each in evals if (labels := _zeroshot(each, model, examples, rows, embedded))],
    )


def matches(image_ids: Any, text_ids: Any, texts: Sequence[str]) -> Bool[np.ndarray, "n n"]:
    """Whether text j is right for picture i: some example pairs a picture of i's id with a text of j's."""
    n = len(texts)
    image = np.unique(image_ids, return_inverse=True)[1] if image_ids is not None else np.arange(n)
    first = None if text_ids is None else [np.ravel(ids)[0] for ids in text_ids]
    text = np.unique(texts if first is None else first, return_inverse=True)[1]
    paired = np.zeros((n, n), bool)
    paired[image, text] = True
    return paired[image[:, None], text[None, :]]


# Retrieval -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What one query finds."""

    query: int
    rank: int
    """Of the best right candidate; a tie counts against it."""
    best: Sequence[int]
    """The first candidates."""
    similarity: Sequence[float]
    right: Sequence[bool]
    wanted: int
    """The best right candidate."""


def search(
    queries: Float[np.ndarray, "n D"],
    gallery: Float[np.ndarray, "n D"],
    match: Bool[np.ndarray, "n n"],
    show: int = 6,
    first: int = 5,
) -> tuple[list[Found], list[Found]]:
    """Some hits (evenly spread over the queries that are right at once), and the worst misses."""
    similar = queries.astype(np.float64) @ gallery.astype(np.float64).T
    right = np.where(match, similar, -np.inf)
    wanted = right.argmax(1)
    bar = right.max(1) - TIE
    ranks = 1 + np.count_nonzero((similar >= bar[:, None]) & ~match, axis=1)
    hits, misses = np.flatnonzero(ranks == 1), np.flatnonzero(ranks > 1)
    some = hits[np.linspace(0, len(hits) - 1, min(show, len(hits))).round().astype(int)]
    worst = misses[np.argsort(-ranks[misses], kind="stable")[:show]]

    def found(query: int) -> Found:
        order = np.lexsort((match[query], -similar[query]))[:first]  # as ranks count: of equals, wrong ones first
        values = [float(x) for x in similar[query, order]]
        return Found(query, int(ranks[query]), order.tolist(), values, match[query, order].tolist(), int(wanted[query]))

    return [found(int(i)) for i in some], [found(int(i)) for i in worst]


# Classes -------------------------------------------------------------------------------------------------------------


def _zeroshot(
    each: Eval, model: Model, examples: Examples, rows: Mapping[str, Any], image: Float[np.ndarray, "n D"]
) -> Labels | None:
    """None where the evaluation is another one, or has more classes than a matrix shows."""
    if not isinstance(each, ZeroShot):
        return None
    names = each.classes or tuple(examples.classes.get(each.label, ()))
    if not 2 <= len(names) <= CLASSES:
        return None
    prototypes = class_embeddings(lambda texts: embed_texts(model, texts, each.text), names, each.templates)
    taken = (image @ prototypes.T).argmax(1)
    return Labels(each.label, names, np.asarray(rows[each.label]), taken, f"the nearest name ({each.name})")


def _labels(
    examples: Examples, rows: Mapping[str, Any], evals: Sequence[Eval], image: Float[np.ndarray, "n D"]
) -> Labels | None:
    """By the labels of an evaluation, or by others of the data where only one class of those occurs here."""
    for name in dict.fromkeys([*(_field(each, "label") for each in evals), *sorted(examples.classes)]):
        right = np.asarray(rows.get(name, ()))
        present = np.unique(right)
        if right.ndim == 1 and right.dtype.kind in "iu" and 2 <= len(present) <= CLASSES:
            index, classes = np.searchsorted(present, right), examples.classes.get(name)
            names = [str(classes[i]) if classes else str(i) for i in present]
            return Labels(name, names, index, _nearest_mean(image, index), "the nearest mean of the others of a class")
    return None


def _nearest_mean(image: Float[np.ndarray, "n D"], labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The class whose mean is nearest, without the example itself."""
    members = np.eye(labels.max() + 1)[labels]
    sums, counts = members.T @ image, members.sum(0)
    similar = image @ unit_rows(sums).T
    others = unit_rows(sums[labels] - image)
    alone = counts[labels] == 1
    similar[np.arange(len(labels)), labels] = np.where(alone, -np.inf, np.einsum("nd,nd->n", image, others))
    return similar.argmax(1)
