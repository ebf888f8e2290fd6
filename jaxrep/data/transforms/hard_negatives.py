"""Add wrong captions as hard negatives: captions with a phrase replaced, or with two phrases exchanged.

Yuksekgonul et al. 2023, When and Why Vision-Language Models Behave like Bags-of-Words (NegCLIP, arXiv:2210.01936,
section 4), and Huang et al. 2024, Structure-CLIP (arXiv:2305.06152). The edits are those of ``word_swaps``.
"""

import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.hashing import content_ids, splitmix64
from jaxrep.data.decode import text_start
from jaxrep.data.source import Examples, digest
from jaxrep.data.transforms import word_swaps
from jaxrep.data.transforms.base import FieldSource, TransformedExamples
from jaxrep.data.transforms.triples import FORMS, Form, exchanges
from jaxrep.spec import spec

SITE = np.uint64(zlib.crc32(b"wrong caption"))
"""Separates these draws from others with the same key."""

Way = Literal["replace", "exchange", "graph"]


@spec
class HardNegativeCaptions(FieldSource):
    """Add a wrong caption to each caption, drawn anew each epoch: first its kind, then one caption of this kind.

    ``<name>/present`` tells whether there is one; where there is none the text is empty. ``<field>_id`` and
    ``<name>_id`` are hashes of the texts, so that a wrong caption is recognized as the true caption of another image.
    """

    field: str = "text"
    """Field of the captions, one per example."""
    name: str = "negative"
    """Field of the wrong captions."""
    ways: tuple[Way, ...] = ("exchange",)
    """replace: replace a phrase by one that excludes it. exchange: exchange two phrases of one kind. graph: exchange
    subject and object of a relation, or the attributes of two subjects."""
    kinds: tuple[str, ...] = ()
    """Kinds of phrases to change, such as noun, skin_tone, object; empty: all."""
    only_known: bool = False
    """Use only wrong captions that are true captions elsewhere in the data, so that a model cannot recognize a wrong
    caption because it never occurs. All captions are held in memory."""
    lexicon: str = ""
    """File of phrases that exclude one another, as ``jaxrep/data/transforms/swaps.txt``; empty: that file."""
    spacy: str = ""
    """spaCy model that tags parts of speech, such as en_core_web_sm; empty: the package's list of words."""
    triples: str = "triples"
    """Field of the triples of a caption, for the way graph."""
    form: Form = "lines"
    """Format of the triples: lines ``subject | relation | object``, or names "subject: detail, detail"."""

    def texts(self) -> tuple[str, ...]:
        return (self.field, self.triples) if "graph" in self.ways else (self.field,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ways:
            yield "ways is empty: choose how a caption is made wrong"

    def added(self) -> dict[str, Field]:
        ids = {f"{name}_id": Field((), "int32") for name in (self.field, self.name)}
        return {self.name: Field((), "str"), f"{self.name}/present": Field((), "bool"), **ids}

    def read_column(self, examples: TransformedExamples, name: str) -> Any:
        if name == f"{self.field}_id":  # needs no wrong caption
            return content_ids(examples.inner.column(self.field))
        return super().read_column(examples, name)

    def open(self) -> Examples:
        return HardNegativeExamples(self, self.source.open())

    def wrong(self, caption: str, triples: str, groups: tuple[word_swaps.Group, ...]) -> list[word_swaps.Negative]:
        """Return all wrong captions of a caption, of its start if it is very long."""
        caption, triples = (text_start(text, word_swaps.MAX_CHARACTERS) for text in (caption, triples))
        wrong = []
        if "replace" in self.ways:
            wrong += word_swaps.replacements(caption, groups)
        if "exchange" in self.ways:
            spans = [*word_swaps.phrases(caption, groups), *word_swaps.tagger(self.spacy)(caption)]
            wrong += word_swaps.exchanges(caption, spans)
        if "graph" in self.ways:
            wrong += exchanges(caption, FORMS[self.form](triples))
        return [negative for negative in wrong if not self.kinds or negative.kind in self.kinds]


class HardNegativeExamples(TransformedExamples):
    """Hold the lexicon and the known captions of ``HardNegativeCaptions``."""

    def __init__(self, source: HardNegativeCaptions, inner: Examples):
        super().__init__(source, inner)
        self._source, self._groups = source, word_swaps.read(source.lexicon)
        self._known = frozenset(inner.column(source.field)) if source.only_known else None

    def compute(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        source, captions = self._source, columns[self._source.field]
        triples = columns[source.triples] if "graph" in source.ways else [""] * len(captions)
        draws = splitmix64((indices.astype(np.uint64) if keys is None else keys) + SITE)
        wrong = [self._draw(*row) for row in zip(captions, triples, draws.tolist(), strict=True)]
        return {
            source.name: wrong,
            f"{source.name}/present": np.array([text != "" for text in wrong], bool),
            f"{source.field}_id": content_ids(captions),
            f"{source.name}_id": content_ids(wrong),
        }

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"lexicon": digest(self._groups)}

    def _draw(self, caption: str, triples: str, key: int) -> str:
        """Draw a wrong caption by a key; return an empty text if there is none."""
        wrong = self._source.wrong(caption, triples, self._groups)
        drawn = word_swaps.draw([n for n in wrong if self._known is None or n.text in self._known], key)
        return "" if drawn is None else drawn.text
