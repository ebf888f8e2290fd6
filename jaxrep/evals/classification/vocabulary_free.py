"""Classification without names of classes: candidates are words of the captions that are nearest to the picture.

Conti et al. 2023 (CaSED), Vocabulary-free Image Classification (arXiv:2306.00917), section 4. Candidates are filtered
by a list of stop words alone, not by their part of speech.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxrep.data.source import Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, missing_columns
from jaxrep.evals.classification.clustering import matched
from jaxrep.evals.classification.knn import most_similar
from jaxrep.evals.embed import embed_images, embed_texts, logit_scale
from jaxrep.metrics.calibration import softmax
from jaxrep.metrics.ranking import unit_rows
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about above after all also an and any are as at be been before being below between both but by can did do "
        "does down during each for from further had has have he her here his how i if image images in into is it its "
        "just me more most my near next no nor not of off on once one only or other our out over own photo photograph "
        "picture pictures s same she side so some such t than that the their them then there these they this those "
        "through to too two under until up very view was we were what when where which while who why will with you "
        "your",
    )
)
"""Words that name nothing that is seen."""


@spec
class VocabularyFree(Eval):
    """``vocabulary_free/iou``: the overlap of the predicted word and the words of the right name; and
    ``vocabulary_free/cluster_accuracy``: the share that is right where each predicted word stands for one class."""

    data: Source
    """LabeledEval pictures that are measured."""
    captions: Source
    """The texts among which captions are retrieved."""
    label: str = "label"
    """Field of the labels whose names are right; or of a text that is."""
    caption: str = "text"
    """Field of the captions: texts, or several of an example."""
    retrieved: int = 10
    """How many captions are retrieved for a picture."""
    alpha: float = 0.7
    """Weight of the similarity to the picture; the rest is that of the similarity to the captions."""
    temperature: float = 0.0
    """Temperature of the scores; 0: what the model has learned."""
    image: str = "image"
    """Field of the images, and the model's tower for them."""
    text: str = "text"
    """The model's tower for texts."""
    name: str = "vocabulary_free"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.image, self.text

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.retrieved < 1 or not 0 <= self.alpha <= 1 or self.temperature < 0:
            yield (
                f"retrieved is at least 1, alpha from 0 to 1 and temperature 0 or more, got {self.retrieved}, "
                f"{self.alpha} and {self.temperature}"
            )
        yield from missing_columns(self.data, self.image, self.label, where="data")
        yield from missing_columns(self.captions, self.caption, where="captions")

    def run(self, model: Model) -> dict[str, float]:
        examples = self.data.open()
        images, columns = embed_images(model, examples, self.image, [self.label])
        names = self._names(columns[self.label], examples.classes.get(self.label, ()))
        predicted = self.predict(model, images)
        same = np.unique(names, return_inverse=True)[1]
        return {
            f"{self.name}/iou": Sample(np.array([overlap(*pair) for pair in zip(predicted, names, strict=True)])),
            f"{self.name}/cluster_accuracy": Sample(matched(np.unique(predicted, return_inverse=True)[1], same)),
        }

    def _names(self, labels: Sequence[Any], classes: Sequence[str]) -> list[str]:
        """The right name of each picture."""
        if isinstance(labels[0], str):
            return [str(label) for label in labels]
        if not classes or min(labels) < 0 or max(labels) >= len(classes):
            raise JaxrepError(
                f"{self.name}: labels run from {min(labels)} to {max(labels)}, and the data name {len(classes)} classes"
            )
        return [str(classes[label]) for label in labels]

    def predict(self, model: Model, images: np.ndarray) -> list[str]:
        """A word for each of the embeddings [N,D] of pictures."""
        texts = self._captions()
        captions = embed_texts(model, texts, self.text)
        _, index = most_similar(images, captions, min(self.retrieved, len(texts)))
        words = [candidates([texts[i] for i in row]) for row in index]
        vocabulary = sorted({word for each in words for word in each})
        place = {word: i for i, word in enumerate(vocabulary)}
        embedded, sure = embed_texts(model, vocabulary, self.text), logit_scale(model, self.temperature)
        found = []
        for image, row, own in zip(images, index, words, strict=True):
            table = embedded[[place[word] for word in own]]
            found.append(own[int(candidate_scores(image, captions[row], table, sure, self.alpha).argmax())])
        return found

    def _captions(self) -> list[str]:
        """Every caption once."""
        column = self.captions.open().column(self.caption)
        texts = list(dict.fromkeys(text for row in column for text in ((row,) if isinstance(row, str) else row)))
        if not texts:
            raise JaxrepError(f"{self.name}: captions holds no text")
        return texts


def candidates(captions: Sequence[str]) -> list[str]:
    """The words of captions, each once, without stop words and single letters; ``object`` where none is left."""
    words = dict.fromkeys(word for text in captions for word in re.findall(r"[^\W\d_]+", text.lower()))
    return [word for word in words if len(word) > 1 and word not in STOP_WORDS] or ["object"]


def candidate_scores(
    image: np.ndarray, captions: np.ndarray, words: np.ndarray, scale: float, alpha: float
) -> np.ndarray:
    """float64 [C]: ``alpha softmax(image . words) + (1 - alpha) softmax(centroid of captions . words)`` of unit
    embeddings: image [D], captions [n,D], words [C,D]."""
    centroid = unit_rows(captions.mean(axis=0, dtype=np.float64))
    by_image, by_captions = softmax(scale * np.stack([words @ image, words @ centroid]))
    return alpha * by_image + (1 - alpha) * by_captions


def overlap(predicted: str, name: str) -> float:
    """Words that both have over words that one has, whatever their case."""
    a, b = (set(re.findall(r"[^\W_]+", text.lower())) for text in (predicted, name))
    return len(a & b) / max(len(a | b), 1)
