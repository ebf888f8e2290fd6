"""Names of classes and the sentences around them: ImageNet's as CLIP was measured with, and files of a user's own.

Both lists were published with CLIP (Radford et al. 2021; openai/CLIP, notebooks/Prompt_Engineering_for_ImageNet.ipynb,
MIT license): names of the 1,000 classes of ImageNet-1k that are clearer than those of WordNet, and 80 templates. Two
names stand for two classes each: missile, and sunglasses.
"""

from importlib import resources

from jaxrep.data.sources.patterns import local
from jaxrep.errors import BadShard, UsageError
from jaxrep.storage import read

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


def clip_80() -> tuple[str, ...]:
    """The 80 templates for ImageNet, with {} for the name."""
    return _own("clip_templates.txt")


def imagenet_classes() -> tuple[str, ...]:
    """The names of the 1,000 classes, by label."""
    return _own("imagenet_classes.txt")


def lines(path: str) -> tuple[str, ...]:
    """The lines of a text file or URL, as names of classes or templates; empty ones are left out. A template's name may
    be written {}, or {c} as CLIP_benchmark does.

    Raises UsageError: the file cannot be read, or holds no line.
    """
    try:
        text = read(local(path)).decode("utf-8-sig")
    except (BadShard, UnicodeDecodeError) as error:
        raise UsageError(f"the names or templates cannot be read: {error}") from error
    found = tuple(line.strip().replace("{c}", "{}") for line in text.splitlines() if line.strip())
    if not found:
        raise UsageError(f"{path} holds no name and no template: it is empty")
    return found


def _own(name: str) -> tuple[str, ...]:
    text = resources.files("jaxrep.evals.classification").joinpath(name).read_text(encoding="utf-8")
    return tuple(text.splitlines())
