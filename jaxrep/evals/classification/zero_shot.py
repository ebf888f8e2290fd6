"""Zero-shot classification: the class whose name, put into sentences, is nearest to the image.

Radford et al. 2021 (CLIP), section 3.1.4: prompts for class names, and their ensemble in embedding space.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxrep.data.source import Source
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.errors import UsageError
from jaxrep.evals.base import Model
from jaxrep.evals.classification.labeled_eval import ClassNamesEval
from jaxrep.evals.embed import embed_texts, logit_scale, unique_texts
from jaxrep.metrics.calibration import confidences, expected_calibration_error
from jaxrep.metrics.ranking import best_ranks
from jaxrep.prompts import class_embeddings, clip_80, imagenet_classes, lines, template_problems
from jaxrep.spec import NonNegative, spec


@spec
class PromptedEval(ClassNamesEval):
    """Classify images by sentences with the names of the classes."""

    templates: tuple[str, ...] = ("{}",)
    """Sentences with {} for the name. The embeddings of the sentences of a class are averaged."""
    temperature: NonNegative = 0.0
    """Temperature of the probabilities. 0: the learned temperature of the model."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from template_problems(self.templates)

    def prototypes(self, model: Model, names: Sequence[str]) -> np.ndarray:
        """Embed classes by their sentences: float32 [K,D]."""
        return class_embeddings(lambda texts: embed_texts(model, texts, self.text), names, self.templates)


@spec
class ZeroShot(PromptedEval):
    """Measure top-k accuracy, the mean over classes of top-1 accuracy, and the calibration error.

    A tie counts against the model. Classes with equal names are the same answer. A class without images is a candidate,
    but does not enter the mean over classes.

    Metrics:
        ``top<k>``, ``mean_per_class``, ``calibration_error``.
    """

    name: str = "zeroshot"

    @classmethod
    def imagenet(cls, data: Source, templates: Sequence[str] = ()) -> "ZeroShot":
        """Declare ImageNet-1k with OpenAI's class names, and CLIP's 80 templates or others."""
        return cls(data=data, classes=imagenet_classes(), templates=tuple(templates) or clip_80(), name="imagenet")

    @classmethod
    def of_clip_benchmark(cls, folder: str, image_size: int, name: str = "", split: str = "test") -> "ZeroShot":
        """Declare a data set in the layout of CLIP_benchmark, in a folder or behind a URL.

        The files are ``<split>/{0..}.tar``, ``<split>/nshards.txt``, ``classnames.txt`` and
        ``zeroshot_classification_templates.txt``.

        Raises:
            UsageError: A file is missing or has another layout.
        """
        folder = folder.rstrip("/")
        names = lines(f"{folder}/classnames.txt")
        return cls(
            data=clip_benchmark_tars(folder, image_size, len(names), split),
            classes=names,
            templates=lines(f"{folder}/zeroshot_classification_templates.txt"),
            name=name or folder.rpartition("/")[2],
        )

    def run(self, model: Model) -> dict[str, float]:
        images, labels, all_names, _ = self.embed_with_names(model)
        names, answer_of_label = unique_texts(all_names)
        prototypes = self.prototypes(model, names)
        answer_ranks = best_ranks(images, prototypes, (np.arange(len(images)), answer_of_label[labels]))
        confidence = confidences(images, prototypes, logit_scale(model, self.temperature))
        error = expected_calibration_error(confidence, answer_ranks == 1)
        return self.accuracies(answer_ranks, labels) | {f"{self.name}/calibration_error": error}


def clip_benchmark_tars(folder: str, image_size: int, classes: int, split: str = "test") -> TarShards:
    """Declare the labeled images of a split in CLIP_benchmark's layout. Raises UsageError."""
    shards = lines(f"{folder}/{split}/nshards.txt")[0]
    if not shards.isdigit() or int(shards) < 1:
        raise UsageError(f"{folder}/{split}/nshards.txt holds {shards!r}, not the number of shards")
    paths = tuple(f"{folder}/{split}/{i}.tar" for i in range(int(shards)))
    return TarShards(shards=paths, text="", label="cls", image_size=image_size, classes=classes)
