"""LabeledEval pictures as evaluations see them: features, labels, names; and the accuracies that come of ranks."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from jaxrep.data.source import Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, missing_columns
from jaxrep.evals.embed import PIXELS, embed_images
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


class LabeledFeatures(NamedTuple):
    """LabeledEval pictures, embedded."""

    features: np.ndarray  # float32 [N,D]
    labels: np.ndarray  # int64 [N], from 0
    names: tuple[str, ...]  # of the classes, by label; empty where the data do not name them


@spec
class LabeledEval(Eval):
    """Abstract: a measure on labeled pictures."""

    data: Source
    """LabeledEval pictures that are measured."""
    label: str = "label"
    """Field of the labels, integers from 0."""
    image: str = "image"
    """Field of the images, and the model's tower for them."""
    output: str = ""
    """Output of the model that is taken, as image/pooled; empty: the tower's own; pixels: the picture itself."""
    ks: tuple[int, ...] = (1, 5)
    """Accuracy is the share of pictures whose class is among the first k."""
    name: str
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return () if self.output == PIXELS else (self.output or self.image,)

    def sources(self) -> dict[str, Source]:
        """The data that it reads, by the name of its field."""
        return {"data": self.data}

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ks or min(self.ks) < 1:
            yield f"ks counts classes, from 1, and is not {self.ks}"
        for where, source in self.sources().items():
            yield from missing_columns(source, self.image, self.label, where=where)

    def pictures(
        self, model: Model, source: Source, names: Sequence[str] = (), *, unit: bool = True
    ) -> LabeledFeatures:
        """The pictures of ``source``.

        ``names``: of the classes, in place of the data's own; ``unit``: whether features are scaled to unit length.

        Raises JaxrepError: there is no picture, or a label is none of the classes.
        """
        examples = source.open()
        names = tuple(names or examples.classes.get(self.label, ()))
        if not len(examples):
            where = next((where for where, each in self.sources().items() if each is source), "data")
            raise JaxrepError(f"{self.name}: {where} holds no example")
        features, columns = embed_images(model, examples, self.image, [self.label], output=self.output, unit=unit)
        labels = np.array(columns[self.label], np.int64)
        classes = len(names) or source.fields()[self.label].classes or int(labels.max()) + 1
        unknown = np.flatnonzero((labels < 0) | (labels >= classes))
        if len(unknown):
            first = int(unknown[0])
            there = f"{classes} {'names' if names else 'classes'}"
            raise JaxrepError(
                f"{self.name}: '{self.label}' of example {first} is {labels[first]}, and there are {there}"
            )
        return LabeledFeatures(features, labels, names)

    def accuracies(self, ranks: np.ndarray, labels: np.ndarray, name: str = "") -> dict[str, float]:
        """``<name>/top<k>`` and ``<name>/mean_per_class`` of the rank [N] of each picture's class."""
        name = name or self.name
        metrics: dict[str, float] = {f"{name}/top{k}": Sample(ranks <= k) for k in self.ks}
        return metrics | {f"{name}/mean_per_class": Sample(ranks == 1, "mean_of_means", groups=labels)}


@spec
class FittedEval(LabeledEval):
    """Abstract: a classifier is fitted to labeled pictures and measured on others."""

    train: Source
    """LabeledEval pictures that it is fitted to."""

    def sources(self) -> dict[str, Source]:
        return {"train": self.train, "data": self.data}

    def both(self, model: Model, *, unit: bool = True) -> tuple[LabeledFeatures, LabeledFeatures, int]:
        """Pictures to fit to, pictures to measure on, and the number of classes.

        Raises JaxrepError: besides what ``pictures`` does, where a label does not mean the same class in both.
        """
        train, data = (self.pictures(model, source, unit=unit) for source in (self.train, self.data))
        if train.names and data.names and train.names != data.names:
            pairs = enumerate(zip_longest(train.names, data.names))
            label, (there, here) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise JaxrepError(
                f"{self.name}: '{self.label}' does not mean the same in both: {label} is {there!r} in train and "
                f"{here!r} in data"
            )
        declared = [source.fields()[self.label].classes or 0 for source in (self.train, self.data)]
        found = [int(pictures.labels.max()) + 1 for pictures in (train, data)]
        return train, data, max(*declared, *found, len(train.names), len(data.names))
