"""Base classes of evaluations on labeled images."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxrep.data.source import Columns, Examples, Source
from jaxrep.data.sources.image_folder import ImageFolderExamples
from jaxrep.data.transforms.base import WrappedExamples
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, Model
from jaxrep.evals.embed import PIXELS, embed_rows
from jaxrep.metrics.sample import Sample
from jaxrep.reads import Column, Output, read_names
from jaxrep.spec import Count, spec


def labels_are_known(examples: Examples) -> bool:
    """Return whether the labels of examples are in memory, or follow from the names of their files."""
    while isinstance(examples, WrappedExamples):
        examples = examples.inner
    return isinstance(examples, Columns | ImageFolderExamples)


class LabeledFeatures(NamedTuple):
    """Hold the features and labels of images."""

    features: np.ndarray  # float32 [N,D]
    labels: np.ndarray  # int64 [N], from 0
    names: tuple[str, ...]  # of the classes, by label; empty if the data do not name them
    columns: Mapping[str, list[Any]]  # values [N] of the columns that the evaluation reads, but for the images


@spec
class LabeledEval(Eval):
    """Measure a model on labeled images."""

    needs_classes: ClassVar[bool] = True
    """Whether the metrics mean nothing if all images are of one class."""

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

    def data_problems(self, data: Mapping[str, Examples]) -> Iterator[str]:
        yield from super().data_problems(data)
        for part, examples in data.items():
            if self.label in self._columns(part) and labels_are_known(examples):
                labels = np.asarray(examples.column(self.label))
                yield from self._class_problems(part, labels, examples.classes.get(self.label, ()))

    def _columns(self, part: str) -> tuple[str, ...]:
        """Return the columns that are read of a source."""
        return read_names(self, lambda reads: reads.columns if part in reads.sources else ())

    def _class_problems(self, part: str, labels: np.ndarray, names: Sequence[str]) -> Iterator[str]:
        if self.needs_classes and len(np.unique(labels)) == 1:
            name = f", {names[labels[0]]!r}" if 0 <= labels[0] < len(names) else ""
            yield (
                f"{self.name}: all {len(labels)} images of {part} ({type(getattr(self, part)).__name__}) have the "
                f"'{self.label}' {labels[0]}{name}, and two classes or more are expected: choose another split or part "
                "of the source, or another label"
            )

    def embed(
        self, model: Model, part: str = "data", names: Sequence[str] = (), *, normalize: bool = True
    ) -> LabeledFeatures:
        """Embed the images of a source.

        Args:
            part: Name of the field of the source.
            names: Names of the classes, in place of those of the data.
            normalize: Whether to scale features to unit length.

        Raises:
            JaxrepError: There is no image, a label is out of range, or all labels are equal.
        """
        source: Source = getattr(self, part)
        examples = source.open()
        names = tuple(names or examples.classes.get(self.label, ()))
        if not len(examples):
            raise JaxrepError(f"{self.name}: {part} holds no example")
        columns = [column for column in self._columns(part) if column != self.image]
        features, values = embed_rows(model, examples, self.image, (self.output,), columns, unit=normalize)
        labels = np.array(values[self.label], np.int64)
        classes = len(names) or source.fields()[self.label].classes or int(labels.max()) + 1
        unknown = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(unknown):
            raise JaxrepError(
                f"{self.name}: '{self.label}' of example {unknown[0]} is {labels[unknown[0]]}, and there are "
                f"{classes} {'names' if names else 'classes'}"
            )
        for problem in self._class_problems(part, labels, names):
            raise JaxrepError(problem)
        return LabeledFeatures(features, labels, names, values)

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
        train, data = parts = [self.embed(model, part, normalize=normalize) for part in ("train", "data")]
        if train.names and data.names and train.names != data.names:
            pairs = enumerate(zip_longest(train.names, data.names))
            label, (a, b) = next((label, pair) for label, pair in pairs if pair[0] != pair[1])
            raise JaxrepError(
                f"{self.name}: '{self.label}' means different classes: {label} is {a!r} in train and {b!r} in data"
            )
        counts = [source.fields()[self.label].classes or 0 for source in (self.train, self.data)]
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
        embedded = self.embed(model, names=self.classes)
        if not embedded.names:
            raise JaxrepError(f"{self.name}: the data does not name the classes of '{self.label}': set classes")
        return embedded
