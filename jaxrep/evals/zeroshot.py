"""Zero-shot classification: the class whose name, put into sentences, is nearest to the image.

Radford et al. 2021 (CLIP), section 3.1.4: prompts for class names, and their ensemble in embedding space.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxrep.data.source import Source
from jaxrep.errors import JaxrepError, hint
from jaxrep.evals.embed import embed_images, embed_texts
from jaxrep.evals.eval import Eval
from jaxrep.evals.ranks import join, ranks, require_finite
from jaxrep.evals.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec

CLIP_SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven templates that the authors of CLIP found to do nearly as well as their 80 for ImageNet."""


@spec
class ZeroShot(Eval):
    """Accuracy among the first k classes, and the mean over classes of top-1 accuracy.

    A tie counts against the model. Classes of one name are the same answer. A class without images takes part as a
    candidate and does not enter the mean over classes.
    """

    data: Source
    """Labelled images."""
    label: str = "label"
    """Field of the labels, integers from 0."""
    classes: tuple[str, ...] = ()
    """Names of the classes by label; none: the data's own."""
    templates: tuple[str, ...] = ("{}",)
    """Sentences with {} for the name; embeddings of a class's sentences are averaged."""
    ks: tuple[int, ...] = (1, 5)
    """Accuracy is the share of images whose class is among the first k."""
    image: str = "image"
    """Field of the images, and the model's tower for them."""
    text: str = "text"
    """The model's tower for the names."""
    name: str = "zeroshot"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.image, self.text

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ks or min(self.ks) < 1:
            yield f"ks counts classes, from 1, and is not {self.ks}"
        if not self.templates:
            yield "templates holds no sentence: ('{}',) is the name alone"
        for template in self.templates:
            if template.count("{}") != 1:
                yield f"a template holds {{}} once, for the name; {template!r} does not"
        fields = self.data.fields()
        for field in (self.image, self.label):
            if field not in fields:
                yield f"the data has no field '{field}'; {hint(field, fields)}"
        declared = fields[self.label].classes if self.label in fields else None
        if self.classes and declared and len(self.classes) != declared:
            yield f"classes holds {len(self.classes)} names, and '{self.label}' takes {declared} values"

    def run(self, model: Model) -> dict[str, float]:
        examples = self.data.open()
        names = self.classes or tuple(examples.classes.get(self.label, ()))
        if not names:
            raise JaxrepError(
                f"{self.name}: the data does not name the classes of '{self.label}': give them as classes"
            )
        images, columns = embed_images(model, examples, self.image, [self.label])
        labels = np.array(columns[self.label])
        unknown = np.flatnonzero((labels < 0) | (labels >= len(names)))
        if len(unknown):
            first = int(unknown[0])
            raise JaxrepError(
                f"{self.name}: '{self.label}' of example {first} is {labels[first]}, and there are {len(names)} names"
            )
        same = np.unique(names, return_inverse=True)[1]
        prototypes = class_embeddings(model, names, self.templates, self.text)
        found = ranks(images, prototypes, join(same[labels], same))
        metrics = {f"{self.name}/top{k}": Sample(found <= k) for k in self.ks}
        return metrics | {f"{self.name}/mean_per_class": Sample(found == 1, "mean_of_means", groups=labels)}


def class_embeddings(model: Model, names: Sequence[str], templates: Sequence[str], text: str = "text") -> np.ndarray:
    """float32 [K,D]: the mean over templates of each class's unit embeddings, scaled to unit length again."""
    total = sum(embed_texts(model, [template.format(name) for name in names], text) for template in templates)
    with np.errstate(invalid="ignore"):
        prototypes = total / np.linalg.norm(total, axis=1, keepdims=True)
    require_finite(prototypes, lambda i: f"the class '{names[i]}'")
    return prototypes
