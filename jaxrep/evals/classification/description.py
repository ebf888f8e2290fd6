"""Classification by description: the score of a class is the mean similarity of its descriptors to the image.

Menon and Vondrick 2023, Visual Classification via Description from Large Language Models (arXiv:2210.07183).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrep.data.class_texts import template_mistake
from jaxrep.data.sources.patterns import local, read_utf8
from jaxrep.errors import JaxrepError, UsageError, hint
from jaxrep.evals.base import Model
from jaxrep.evals.classification.labeled_eval import ClassNamesEval
from jaxrep.evals.embed import embed_texts
from jaxrep.metrics.ranking import best_ranks
from jaxrep.spec import spec


class Explanation(NamedTuple):
    """Explain the score of one class for an image."""

    label: int
    name: str
    score: float
    """Mean of the similarities below."""
    descriptors: tuple[tuple[str, float], ...]
    """Descriptors of the class with their similarity to the image, the most similar first."""


@spec
class DescriptionClassification(ClassNamesEval):
    """Measure accuracy by ``s(c, x) = 1 / |D(c)| sum_{d in D(c)} phi(d, x)`` (eq. 1).

    This is the mean over the descriptors of a class of the cosine of image and sentence.

    Metrics:
        ``top<k>``, ``mean_per_class``.
    """

    descriptors: Mapping[str, tuple[str, ...]]
    """Visible features of each class, by its name."""
    template: str = "{name} which has {descriptor}"
    """The sentence of a descriptor."""
    name: str = "description"

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if mistake := template_mistake(self.template, "{descriptor}", "{name}"):
            yield f"template holds {{descriptor}}, and optionally {{name}}; {mistake}"
        for name, descriptors in self.descriptors.items():
            if not descriptors:
                yield f"descriptors holds no descriptor of '{name}'"

    def run(self, model: Model) -> dict[str, float]:
        images, labels, names, _ = self.embed_with_names(model)
        sentences = [self.sentences(name) for name in names]
        embeddings = embed_texts(model, [text for group in sentences for text in group], self.text)
        ends = np.cumsum([len(group) for group in sentences])
        means = np.stack([group.mean(axis=0, dtype=np.float64) for group in np.split(embeddings, ends[:-1])])
        return self.accuracies(best_ranks(images, means, (np.arange(len(images)), labels)), labels)

    def sentences(self, name: str) -> list[str]:
        """Return the sentences of a class. Raises JaxrepError if it has no descriptors."""
        if not self.descriptors.get(name):
            raise JaxrepError(f"{self.name}: the class '{name}' has no descriptors; {hint(name, self.descriptors)}")
        return [self.template.format(name=name, descriptor=text) for text in self.descriptors[name]]

    def explain(self, model: Model, image: Any, names: Sequence[str] = (), classes: int = 3) -> list[Explanation]:
        """Return the ``classes`` most likely classes of one image, the best first. ``names``: of the classes."""
        embedding = model.encode_image([image], self.image, output=self.output)[0]
        explanations = []
        for label, name in enumerate(names or self.classes or self.descriptors):
            similar = (embed_texts(model, self.sentences(name), self.text) @ embedding).tolist()
            pairs = sorted(zip(self.descriptors[name], similar, strict=True), key=lambda pair: -pair[1])
            explanations.append(Explanation(label, name, float(np.mean(similar)), tuple(pairs)))
        return sorted(explanations, key=lambda explanation: -explanation.score)[:classes]


def read_descriptors(path: str) -> dict[str, tuple[str, ...]]:
    """Read descriptors per class name from a JSON file ``{name: [descriptor, …]}``, the format of the authors.

    Raises UsageError: The file has another format.
    """
    try:
        table = json.loads(read_utf8(local(path)))
    except ValueError as error:
        raise UsageError(f"the descriptors cannot be read: {path}: {error}") from error
    if not isinstance(table, dict) or not all(isinstance(descriptors, list) for descriptors in table.values()):
        raise UsageError(f'{path} holds no descriptors: the format is {{"name": ["descriptor", …], …}}')
    return {name: tuple(map(str, descriptors)) for name, descriptors in table.items()}
