"""Names of classes, prompt templates around them, and the embeddings of classes for zero-shot classification.

``imagenet_classes`` and ``clip_80`` were published with CLIP (Radford et al. 2021; openai/CLIP,
notebooks/Prompt_Engineering_for_ImageNet.ipynb, MIT license): names of the 1,000 classes of ImageNet-1k that are
clearer than those of WordNet, and 80 templates. Two names stand for two classes each: missile, and sunglasses.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import resources

import numpy as np

from jaxrep.data.class_texts import template_mistake
from jaxrep.data.sources.patterns import local, read_utf8
from jaxrep.errors import JaxrepError, UsageError
from jaxrep.metrics.ranking import unit_rows

DEFAULT_TEMPLATES = ("a photo of a {}.",)
"""The template of ``Model.classify``."""
CLIP_SEVEN = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""Seven templates that do nearly as well as the 80 on ImageNet, by the authors of CLIP."""


def clip_80() -> tuple[str, ...]:
    """Return CLIP's 80 templates for ImageNet, with {} for the name."""
    return _packaged_lines("clip_templates.txt")


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of the 1,000 classes of ImageNet-1k, by label."""
    return _packaged_lines("imagenet_classes.txt")


def lines(path: str) -> tuple[str, ...]:
    """Read class names or templates, one per line, from a text file or URL; empty lines are ignored.

    In a template the name is written {}, or {c} as in CLIP_benchmark.

    Raises:
        UsageError: the file cannot be read, or holds no line.
    """
    try:
        text = read_utf8(local(path))
    except UsageError as error:
        raise UsageError(f"the names or templates cannot be read: {error}") from error
    entries = tuple(line.strip().replace("{c}", "{}") for line in text.splitlines() if line.strip())
    if not entries:
        raise UsageError(f"{path} holds no name and no template: it is empty")
    return entries


def template_problems(templates: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for each template that does not contain {} exactly once, or contains other braces."""
    if isinstance(templates, str):
        yield "templates is one string, expected a list of templates: write [template]"
        return
    if not templates:
        yield "templates is empty: ('{}',) is the name alone"
    for template in templates:
        if mistake := template_mistake(template, "{}"):
            yield f"a template contains {{}} once, for the name; {mistake}"


def class_embeddings(
    encode_text: Callable[[list[str]], np.ndarray], names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """Return float32 [K,D]: per class the mean of the unit embeddings of its prompts, scaled to unit length.

    Args:
        encode_text: from n texts to unit embeddings [n,D].
        names: of the K classes.
        templates: sentences with {} for the name.

    Raises:
        UsageError: a template does not contain {} once.
        JaxrepError: the prompt embeddings of a class add up to zero.
    """
    for problem in template_problems(templates):
        raise UsageError(problem)
    total = sum(encode_text([template.format(name) for name in names]) for template in templates)
    cancelled = np.flatnonzero(~np.any(total, axis=1))
    if len(cancelled):
        raise JaxrepError(
            f"the prompt embeddings of class '{names[cancelled[0]]}' add up to zero, so it has no direction: "
            "use other templates, or check whether training collapsed"
        )
    return unit_rows(np.asarray(total))


def _packaged_lines(name: str) -> tuple[str, ...]:
    return tuple(resources.files("jaxrep").joinpath(name).read_text(encoding="utf-8").splitlines())
