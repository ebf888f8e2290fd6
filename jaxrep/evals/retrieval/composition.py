"""Composition: whether a model prefers a caption to versions with a replaced, exchanged or reordered word.

Yuksekgonul et al. 2023, When and Why Vision-Language Models Behave like Bags-of-Words (ARO, arXiv:2210.01936). It works
with any captioned images: a lexicon of swaps generates the wrong captions (``jaxrep/data/transforms/word_swaps.py``).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxrep.data.decode import text_start
from jaxrep.data.transforms import word_swaps
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Model
from jaxrep.evals.embed import embed_each
from jaxrep.evals.retrieval.captioned_eval import CaptionedEval
from jaxrep.metrics.ranking import TIE
from jaxrep.spec import Natural, spec


class CaptionTest(NamedTuple):
    """Hold an image, its correct caption, a wrong caption, and the metric that counts the test."""

    image: int
    correct: str
    wrong: str
    metric: str


@spec
class Composition(CaptionedEval):
    """Measure the share of captions that score strictly above all their wrong versions with their image.

    A tie counts as lost, so a model that ignores the order
    of words has 0 in tests that only move words. Another caption of the same image is not wrong. Images with equal
    ``<image>_id`` are the same image.

    Metrics:
        ``replace/<kind>``: a phrase is replaced by phrases that exclude it (skin_tone, gender, direction, color).
        ``exchange/<kind>``: two phrases of a kind exchange places (these kinds, and parts of speech).
        ``order/<kind>``: all words stand in other orders.
    """

    lexicon: str = ""
    """A file of phrases that exclude one another, as ``jaxrep/data/transforms/swaps.txt``. Empty: that file."""
    spacy: str = ""
    """The spaCy model that finds parts of speech, as en_core_web_sm. Empty: the words of the package's lexicon."""
    key: Natural = 0
    """Seed of the orders of words."""
    name: str = "composition"

    def run(self, model: Model) -> dict[str, float]:
        (images, ids), captions, _ = self.embed_captioned(model)
        tests = self._tests(captions, ids)
        texts = embed_each(model, (text for test in tests for text in (test.correct, test.wrong)), self.text)
        won: dict[str, dict[tuple[int, str], bool]] = defaultdict(dict)
        for image, correct, wrong, metric in tests:
            # Float64, so that equal embeddings tie.
            score, other = np.stack([texts[correct], texts[wrong]]).astype(np.float64) @ images[image]
            won[metric][image, correct] = won[metric].get((image, correct), True) and bool(score > other + TIE)
        return self.named({metric: np.array([*won[metric].values()]) for metric in sorted(won)})

    def _tests(self, captions: list[tuple[str, ...]], ids: np.ndarray) -> list[CaptionTest]:
        groups, tag = word_swaps.read(self.lexicon), word_swaps.tagger(self.spacy)
        correct: dict[int, set[str]] = defaultdict(set)
        for group, image_id in zip(captions, ids, strict=True):
            correct[int(image_id)].update(_normalize(text) for text in group)
        tests = [
            CaptionTest(image, caption, text, metric)
            for image, (group, image_id) in enumerate(zip(captions, ids, strict=True))
            for caption in (text_start(text, word_swaps.MAX_CHARACTERS) for text in group)
            for metric, text in wrong_captions(caption, groups, tag(caption), self.key)
            if _normalize(text) not in correct[int(image_id)]
        ]
        if not tests:
            raise JaxrepError(f"{self.name}: no caption holds a phrase of the lexicon or words to reorder")
        return tests


def wrong_captions(
    caption: str, groups: tuple[word_swaps.Group, ...], parts_of_speech: Sequence[word_swaps.Span], key: int
) -> Iterator[tuple[str, str]]:
    """Yield all wrong versions of a caption, each after its metric."""
    phrases = word_swaps.phrases(caption, groups)
    kinds = {
        "replace": word_swaps.replacements(caption, groups),
        "exchange": word_swaps.exchanges(caption, [*phrases, *parts_of_speech]),
        "order": word_swaps.reorderings(caption, parts_of_speech, key),
    }
    for kind, negatives in kinds.items():
        yield from ((f"{kind}/{negative.kind}", negative.text) for negative in negatives)


def _normalize(text: str) -> str:
    return " ".join(text.lower().split())
