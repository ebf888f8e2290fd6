"""Zero-shot classification: the class whose name, put into sentences, is nearest to the image.

Radford et al. 2021 (CLIP), section 3.1.4: prompts for class names, and their ensemble in embedding space.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxrep.data.source import Source
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.evals.classification.labeled_eval import LabeledEval, LabeledFeatures
from jaxrep.evals.classification.templates import clip_80, imagenet_classes, lines
from jaxrep.evals.embed import PIXELS, embed_texts, logit_scale
from jaxrep.metrics.calibration import confidences, expected_calibration_error
from jaxrep.metrics.ranking import ranks, unit_rows
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class ClassNamesEval(LabeledEval):
    """Abstract: classes are known by their names alone."""

    classes: tuple[str, ...] = ()
    """Names of the classes by label; none: the data's own."""
    text: str = "text"
    """The model's tower for the names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return *super().reads, self.text

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.output == PIXELS:
            yield f"output is '{PIXELS}', which names of classes cannot be compared with: leave it to the tower"
        field = self.data.fields().get(self.label)
        declared = field.classes if field else None
        if self.classes and declared and len(self.classes) != declared:
            yield f"classes holds {len(self.classes)} names, and '{self.label}' takes {declared} values"

    def named(self, model: Model) -> LabeledFeatures:
        """The pictures and the names of their classes. Raises JaxrepError: nobody names the classes."""
        found = self.pictures(model, self.data, self.classes)
        if not found.names:
            raise JaxrepError(
                f"{self.name}: the data does not name the classes of '{self.label}': give them as classes"
            )
        return found


@spec
class ZeroShot(ClassNamesEval):
    """Accuracy among the first k classes, the mean over classes of top-1 accuracy, and the calibration error.

    A tie counts against the model. Classes of one name are the same answer. A class without images takes part as a
    candidate and does not enter the mean over classes.
    """

    templates: tuple[str, ...] = ("{}",)
    """Sentences with {} for the name; embeddings of a class's sentences are averaged."""
    temperature: float = 0.0
    """Temperature of the probabilities; 0: what the model has learned."""
    name: str = "zeroshot"
    """First part of the metrics' names."""

    @classmethod
    def imagenet(cls, data: Source, templates: Sequence[str] = ()) -> "ZeroShot":
        """ImageNet-1k by OpenAI's names for the classes, with CLIP's 80 templates or others."""
        return cls(data=data, classes=imagenet_classes(), templates=tuple(templates) or clip_80(), name="imagenet")

    @classmethod
    def of_clip_benchmark(cls, folder: str, image_size: int, name: str = "", split: str = "test") -> "ZeroShot":
        """A data set as CLIP_benchmark writes it: ``<split>/{0..}.tar``, ``<split>/nshards.txt``, ``classnames.txt``
        and ``zeroshot_classification_templates.txt``, in a folder or behind a URL.

        Raises UsageError: a file is missing or is none of that layout.
        """
        folder = folder.rstrip("/")
        names = lines(f"{folder}/classnames.txt")
        return cls(
            data=clip_benchmark_tars(folder, image_size, len(names), split),
            classes=names,
            templates=lines(f"{folder}/zeroshot_classification_templates.txt"),
            name=name or folder.rpartition("/")[2],
        )

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from template_problems(self.templates)
        if self.temperature < 0:
            yield f"temperature is above 0, or 0 for the model's own, and not {self.temperature}"

    def run(self, model: Model) -> dict[str, float]:
        images, labels, every = self.named(model)
        names, same = distinct(every)
        answers = same[labels]
        prototypes = class_embeddings(model, names, self.templates, self.text)
        found = ranks(images, prototypes, (np.arange(len(images)), answers))
        sure = confidences(images, prototypes, logit_scale(model, self.temperature))
        error = expected_calibration_error(sure, found == 1)
        return self.accuracies(found, labels) | {f"{self.name}/calibration_error": error}


def distinct(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Each name once, and which of them each of ``names`` is, int64 [K]: classes of one name are the same answer."""
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return tuple(place), np.array([place[name] for name in names])


def clip_benchmark_tars(folder: str, image_size: int, classes: int, split: str = "test") -> TarShards:
    """The labeled pictures of a split of CLIP_benchmark's layout. Raises UsageError."""
    written = lines(f"{folder}/{split}/nshards.txt")[0]
    if not written.isdigit() or int(written) < 1:
        raise UsageError(f"{folder}/{split}/nshards.txt holds {written!r}, not the number of shards")
    shards = tuple(f"{folder}/{split}/{i}.tar" for i in range(int(written)))
    return TarShards(shards=shards, text="", label="cls", image_size=image_size, classes=classes)


def template_problems(templates: Sequence[str]) -> Iterator[str]:
    """A sentence for each template that does not hold {} once."""
    if not templates:
        yield "templates holds no sentence: ('{}',) is the name alone"
    for template in templates:
        if template.count("{}") != 1:
            yield f"a template holds {{}} once, for the name; {template!r} does not"


def class_embeddings(model: Model, names: Sequence[str], templates: Sequence[str], text: str = "text") -> np.ndarray:
    """float32 [K,D]: the mean over templates of each class's unit embeddings, scaled to unit length again.

    Raises JaxrepError: an embedding is not finite, or those of a class add up to zero.
    """
    total = sum(embed_texts(model, [template.format(name) for name in names], text) for template in templates)
    cancelled = np.flatnonzero(~np.any(total, axis=1))
    if len(cancelled):
        raise JaxrepError(
            f"the embeddings of the sentences of class '{names[cancelled[0]]}' add up to zero, so it has no direction: "
            "take other templates, or look for where training collapsed"
        )
    return unit_rows(np.asarray(total))
