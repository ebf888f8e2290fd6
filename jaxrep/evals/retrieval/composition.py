"""Composition: whether a model tells a caption from the same with a word replaced, two exchanged, or all reordered.

Yuksekgonul et al. 2023, When and Why Vision-Language Models Behave like Bags-of-Words (ARO, arXiv:2210.01936). Any
captioned pictures do: the wrong captions come from a grammar of swaps (``data/texts/swaps.py``).
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from jaxrep.data.transforms import word_swaps
from jaxrep.errors import JaxrepError
from jaxrep.evals.embed import embed_texts
from jaxrep.evals.retrieval.captioned_eval import CaptionedEval
from jaxrep.metrics.ranking import TIE
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec

Test = tuple[int, str, str, str]
"""(picture, its true caption, the metric, a wrong caption)."""


@spec
class Composition(CaptionedEval):
    """Share of captions that score strictly above all their wrong ones with their picture, by kind of swap.

    ``<name>/replace/<kind>``: a phrase gives way to those that exclude it (skin_tone, gender, direction, color);
    ``<name>/exchange/<kind>``: two phrases of a kind change places (these kinds, and parts of speech);
    ``<name>/order/<kind>``: other orders of all words. A tie is lost, so a model that sees words without their order
    has 0 in what only moves them. A caption of the same picture is not wrong; pictures of one ``<image>_id`` are the
    same.
    """

    lexicon: str = ""
    """A file of phrases that exclude one another, as ``jaxrep/data/transforms/swaps.txt``; empty: that file."""
    spacy: str = ""
    """The model of spaCy that finds parts of speech, as en_core_web_sm; empty: the words of the package's lexicon."""
    key: int = 0
    """Chooses among the orders of words."""
    name: str = "composition"
    """First part of the metrics' names."""

    def run(self, model: Model) -> dict[str, float]:
        (images, ids), captions, _ = self.pictures(model)
        tests = self._tests(captions, ids)
        texts = list(dict.fromkeys(text for _, true, _, wrong in tests for text in (true, wrong)))
        row, embeddings = {text: i for i, text in enumerate(texts)}, embed_texts(model, texts, self.text)
        won: dict[str, dict[tuple[int, str], bool]] = defaultdict(dict)
        for picture, true, metric, wrong in tests:
            # Float64, so that equal embeddings tie.
            right, other = embeddings[[row[true], row[wrong]]].astype(np.float64) @ images[picture]
            won[metric][picture, true] = won[metric].get((picture, true), True) and bool(right > other + TIE)
        return {f"{self.name}/{metric}": Sample(np.array([*won[metric].values()])) for metric in sorted(won)}

    def _tests(self, captions: list[tuple[str, ...]], ids: np.ndarray) -> list[Test]:
        wrong = Wrong(self.lexicon, self.spacy, self.key)
        true: dict[int, set[str]] = defaultdict(set)
        for group, number in zip(captions, ids, strict=True):
            true[int(number)].update(_plain(text) for text in group)
        tests = [
            (picture, caption, metric, text)
            for picture, (group, number) in enumerate(zip(captions, ids, strict=True))
            for caption in group
            for metric, text in wrong(caption)
            if _plain(text) not in true[int(number)]
        ]
        if not tests:
            raise JaxrepError(f"{self.name}: no caption holds a phrase of the lexicon, and none has words to reorder")
        return tests


class Wrong:
    """All wrong captions of a caption, each with its metric."""

    def __init__(self, lexicon: str, spacy: str, key: int):
        self._groups = word_swaps.read(lexicon)
        self._tag, self._key = word_swaps.tagger(spacy), key

    def __call__(self, caption: str) -> Iterator[tuple[str, str]]:
        words = self._tag(caption)
        kinds = {
            "replace": word_swaps.replacements(caption, self._groups),
            "exchange": word_swaps.exchanges(caption, [*word_swaps.phrases(caption, self._groups), *words]),
            "order": word_swaps.reorderings(caption, words, self._key),
        }
        for kind, negatives in kinds.items():
            yield from ((f"{kind}/{negative.kind}", negative.text) for negative in negatives)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
