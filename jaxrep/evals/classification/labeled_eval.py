"""Base classes of evaluations on labeled images."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from jaxrep.data.source import Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, Model
from jaxrep.evals.embed import PIXELS, embed_images
from jaxrep.metrics.sample import Sample
from jaxrep.reads import Column, Output
from jaxrep.spec import Count, spec


class LabeledFeatures(NamedTuple):
    """Hold the features and labels of images."""

    features: np.ndarray  # float32 [N,D]
    labels: np.ndarray  # int64 [N], from 0
    names: tuple[str, ...]  # of the classes, by label; empty if the data do not name them


@spec
class LabeledEval(Eval):
    """Measure a model on labeled images."""

    data: Source
    """Labeled images on which the model is measured."""
    label: Column = "label"
    """Column of the labels, integers from 0."""
    image: Column = "image"
    """Column of the images, and the model's tower for them."""
    output: str = ""
    """Name of the model output, as image/pooled. Empty: the output of the tower. pixels: the image itself."""
    ks: tuple[Count, ...] = (1, 5)
    """Numbers k of top-k accuracy."""

    @property
    def reads(self) -> tuple[str, ...]:
        image = () if self.output == PIXELS else (self.output or self.image,)
        return *image, *super().reads

    def embed(
        self, model: Model, source: Source, names: Sequence[str] = (), *, normalize: bool = True
    ) -> LabeledFeatures:
        """Embed the images of ``source``.

        Args:
            names: Names of the classes, in place of those of the data.
            normalize: Whether to scale features to unit length.

        Raises:
            JaxrepError: There is no image, or a label is out of range.
        """
        examples = source.open()
        names = tuple(names or examples.classes.get(self.label, ()))
        if not len(examples):
            raise JaxrepError(f"{self.name}: {'data' if source is self.data else 'train'} holds no example")
        features, columns = embed_images(
            model, examples, self.image, [self.label], output=self.output, normalize=normalize
        )
        labels = np.array(columns[self.label], np.int64)
        classes = len(names) or source.fields()[self.label].classes or int(labels.max()) + 1
        unknown = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(unknown):
            raise JaxrepError(
                f"{self.name}: '{self.label}' of example {unknown[0]} is {labels[unknown[0]]}, and there are "
                f"{classes} {'names' if names else 'classes'}"
            )
        return LabeledFeatures(features, labels, names)

    def accuracies(self, ranks: np.ndarray, labels: np.ndarray, name: str = "") -> dict[str, float]:
        """Return ``<name>/top<k>`` and ``<name>/mean_per_class`` from the rank [N] of the correct class per image."""
        name = name or self.name
        metrics: dict[str, float] = {f"{name}/top{k}": Sample(ranks <= k) for k in self.ks}
        return metrics | {f"{name}/mean_per_class": Sample(ranks == 1, "mean_of_means", groups=labels)}


@spec
class FittedEval(LabeledEval):
    """Fit a classifier to labeled images and measure it on others."""

    train: Source
    """Labeled images to which the classifier is fitted."""

    def train_and_data(self, model: Model, *, normalize: bool = True) -> tuple[LabeledFeatures, LabeledFeatures, int]:
        """Embed both sources, and return the number of classes as well.

        Raises JaxrepError as ``embed`` does, and if a label does not mean the same class in both sources.
        """
        sources = self.train, self.data
        train, data = parts = [self.embed(model, source, normalize=normalize) for source in sources]
        if train.names and data.names and train.names != data.names:
            pairs = enumerate(zip_longest(train.names, data.names))
            label, (a, b) = next((label, pair) for label, pair in pairs if pair[0] != pair[1])
            raise JaxrepError(
                f"{self.name}: '{self.label}' means different classes: {label} is {a!r} in train and {b!r} in data"
            )
        counts = [source.fields()[self.label].classes or 0 for source in sources]
        counts += [max(int(part.labels.max()) + 1, len(part.names)) for part in parts]
        return train, data, max(counts)


@spec
class ClassNamesEval(LabeledEval):
    """Classify images by the names of the classes alone."""

    classes: tuple[str, ...] = ()
    """Names of the classes by label. Empty: the names that the data have."""
    text: Output = "text"
    """The model's tower for the names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.output == PIXELS:
            yield f"output is '{PIXELS}', which cannot be compared with class names: leave it empty"
        field = self.data.fields().get(self.label)
        declared = field.classes if field else None
        if self.classes and declared and len(self.classes) != declared:
            yield f"classes holds {len(self.classes)} names, and '{self.label}' takes {declared} values"

    def embed_with_names(self, model: Model) -> LabeledFeatures:
        """Embed the images, with the names of the classes. Raises JaxrepError if the classes have no names."""
        embedded = self.embed(model, self.data, self.classes)
        if not embedded.names:
            raise JaxrepError(f"{self.name}: the data does not name the classes of '{self.label}': set classes")
        return embedded
