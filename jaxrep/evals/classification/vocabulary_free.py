"""Classification without class names: the candidates are words of the captions that are nearest to the image.

Conti et al. 2023 (CaSED), Vocabulary-free Image Classification (arXiv:2306.00917), section 4. A list of stop words
filters the candidates, not their part of speech.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from jaxrep.data.loading.readable import read_columns
from jaxrep.data.source import Source, as_captions, ranked
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, Model, TowerColumn
from jaxrep.evals.classification.clustering import matched
from jaxrep.evals.classification.knn import most_similar
from jaxrep.evals.embed import embed_each, embed_rows, embed_texts, logit_scale
from jaxrep.metrics.calibration import softmax
from jaxrep.metrics.ranking import unit_rows
from jaxrep.reads import Column, Output, Reads
from jaxrep.spec import Count, NonNegative, Share, spec

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
"""Words that name nothing visible."""


@spec
class VocabularyFree(Eval):
    """Measure predicted words without a list of class names.

    Metrics:
        ``iou``: intersection over union of the predicted word and the words of the correct name.
        ``cluster_accuracy``: share of correct images under the best one-to-one assignment of predicted words to
        classes.
    """

    data: Source
    """Labeled images on which the model is measured."""
    captions: Source
    """The texts from which captions are retrieved."""
    label: Column = "label"
    """Column of the labels, whose class names are correct; or of a correct text."""
    caption: Annotated[str, Reads(columns=("{}",), sources=("captions",))] = "text"
    """Column of the captions: one text or several texts per example."""
    retrieved: Count = 10
    """Number of captions that are retrieved per image."""
    alpha: Share = 0.7
    """Weight of the similarity to the image. The rest is the weight of the similarity to the captions."""
    temperature: NonNegative = 0.0
    """Temperature of the scores. 0: the learned temperature of the model."""
    image: TowerColumn = "image"
    """Column of the images, and the model's tower for them."""
    text: Output = "text"
    """The model's tower for texts."""
    name: str = "vocabulary_free"

    def run(self, model: Model) -> dict[str, float]:
        examples = self.data.open()
        images, columns = embed_rows(model, examples, self.image, columns=[self.label], unit=True)
        names = self._names(columns[self.label], examples.classes.get(self.label, ()))
        predicted = self.predict(model, images)
        words, classes = (ranked(texts) for texts in (predicted, names))
        ious = np.array([word_iou(*pair) for pair in zip(predicted, names, strict=True)])
        return self.named({"iou": ious, "cluster_accuracy": matched(words, classes)})

    def _names(self, labels: Sequence[Any], classes: Sequence[str]) -> list[str]:
        """Return the correct name of each image."""
        if isinstance(labels[0], str):
            return [str(label) for label in labels]
        if not classes or min(labels) < 0 or max(labels) >= len(classes):
            raise JaxrepError(
                f"{self.name}: labels run from {min(labels)} to {max(labels)}, and the data name {len(classes)} classes"
            )
        return [str(classes[label]) for label in labels]

    def predict(self, model: Model, images: np.ndarray) -> list[str]:
        """Predict a word per image embedding [N,D]."""
        texts = self._unique_captions()
        captions = embed_texts(model, texts, self.text)
        _, index = most_similar(images, captions, min(self.retrieved, len(texts)))
        words = [candidates([texts[i] for i in row]) for row in index]
        embedded = embed_each(model, sorted({word for group in words for word in group}), self.text)
        scale, predicted = logit_scale(model, self.temperature), []
        for image, row, group in zip(images, index, words, strict=True):
            group_rows = np.stack([embedded[word] for word in group])
            scores = candidate_scores(image, captions[row], group_rows, scale, self.alpha)
            predicted.append(group[int(scores.argmax())])
        return predicted

    def _unique_captions(self) -> list[str]:
        column = read_columns(self.captions.open(), [self.caption])[self.caption]
        texts = list(dict.fromkeys(text for value in column for text in as_captions(value)))
        if not texts:
            raise JaxrepError(f"{self.name}: captions holds no text")
        return texts


def candidates(captions: Sequence[str]) -> list[str]:
    """Return the words of captions, each once, without stop words and single letters; ``object`` if none is left."""
    words = dict.fromkeys(word for text in captions for word in re.findall(r"[^\W\d_]+", text.lower()))
    return [word for word in words if len(word) > 1 and word not in STOP_WORDS] or ["object"]


def candidate_scores(
    image: np.ndarray, captions: np.ndarray, words: np.ndarray, scale: float, alpha: float
) -> np.ndarray:
    """Return ``alpha softmax(image . words) + (1 - alpha) softmax(centroid of captions . words)``: float64 [C].

    All are unit embeddings: image [D], captions [n,D], words [C,D].
    """
    centroid = unit_rows(captions.mean(axis=0, dtype=np.float64))
    by_image, by_captions = softmax(scale * np.stack([words @ image, words @ centroid]))
    return alpha * by_image + (1 - alpha) * by_captions


def word_iou(predicted: str, name: str) -> float:
    """Return the intersection over union of the words of two texts, ignoring case."""
    a, b = (set(re.findall(r"[^\W_]+", text.lower())) for text in (predicted, name))
    return len(a & b) / max(len(a | b), 1)
