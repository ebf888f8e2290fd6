"""Classification by description: a class is as likely as its descriptors are, on average, seen in the picture.

Menon and Vondrick 2023, Visual Classification via DescriptionClassification from Large Language Models (arXiv:2210.07183).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrep.data.sources.patterns import local
from jaxrep.errors import BadShard, JaxrepError, UsageError, hint
from jaxrep.evals.classification.zero_shot import ClassNamesEval
from jaxrep.evals.embed import embed_texts
from jaxrep.metrics.ranking import ranks
from jaxrep.model import Model
from jaxrep.spec import spec
from jaxrep.storage import read


class Explanation(NamedTuple):
    """Why a picture is taken for a class."""

    label: int
    name: str
    score: float
    """The mean of the similarities below."""
    descriptors: tuple[tuple[str, float], ...]
    """The class's descriptors with their similarity to the picture, those that speak most for it first."""


@spec
class DescriptionClassification(ClassNamesEval):
    """Accuracy by ``s(c, x) = 1 / |D(c)| sum_{d in D(c)} phi(d, x)`` (eq. 1): the mean over the descriptors of a class
    of the cosine of picture and sentence."""

    descriptors: Mapping[str, tuple[str, ...]]
    """What pictures of each class show, by its name."""
    template: str = "{name} which has {descriptor}"
    """The sentence of a descriptor."""
    name: str = "description"
    """First part of the metrics' names."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if "{descriptor}" not in self.template:
            yield f"template holds {{descriptor}}, and {{name}} where it is to; {self.template!r} does not"
        for name, described in self.descriptors.items():
            if not described:
                yield f"descriptors holds none for '{name}'"

    def run(self, model: Model) -> dict[str, float]:
        images, labels, names = self.named(model)
        sentences = [self.sentences(name) for name in names]
        embedded = embed_texts(model, [text for each in sentences for text in each], self.text)
        ends = np.cumsum([len(each) for each in sentences])
        means = np.stack([each.mean(axis=0, dtype=np.float64) for each in np.split(embedded, ends[:-1])])
        found = ranks(images, means, (np.arange(len(images)), labels))
        return self.accuracies(found, labels)

    def sentences(self, name: str) -> list[str]:
        """Those of the descriptors of a class. Raises JaxrepError: it has none."""
        if not self.descriptors.get(name):
            raise JaxrepError(f"{self.name}: the class '{name}' has no descriptors; {hint(name, self.descriptors)}")
        return [self.template.format(name=name, descriptor=each) for each in self.descriptors[name]]

    def explain(self, model: Model, picture: Any, names: Sequence[str] = (), classes: int = 3) -> list[Explanation]:
        """The likeliest ``classes`` of one picture, the best first. ``names``: of the classes by label."""
        embedding = model.encode_image([picture], self.image, output=self.output)[0]
        found = []
        for label, name in enumerate(names or self.classes or self.descriptors):
            similar = (embed_texts(model, self.sentences(name), self.text) @ embedding).tolist()
            pairs = sorted(zip(self.descriptors[name], similar, strict=True), key=lambda pair: -pair[1])
            found.append(Explanation(label, name, float(np.mean(similar)), tuple(pairs)))
        return sorted(found, key=lambda each: -each.score)[:classes]


def read_descriptors(path: str) -> dict[str, tuple[str, ...]]:
    """Descriptors by the name of a class, from a JSON file ``{name: [descriptor, …]}``, as the authors' are.

    Raises UsageError: it is none.
    """
    try:
        found = json.loads(read(local(path)))
    except (BadShard, ValueError) as error:
        raise UsageError(f"the descriptors cannot be read: {path}: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(each, list) for each in found.values()):
        raise UsageError(f'{path} holds no descriptors: they are {{"name": ["descriptor", …], …}}')
    return {name: tuple(map(str, each)) for name, each in found.items()}
