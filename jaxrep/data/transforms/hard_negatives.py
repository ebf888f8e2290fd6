"""Wrong captions as hard negatives: each caption with a phrase replaced, or with two phrases in each other's place.

Yuksekgonul et al. 2023, When and Why Vision-Language Models Behave like Bags-of-Words (NegCLIP, arXiv:2210.01936,
section 4), and Huang et al. 2024, Structure-CLIP (arXiv:2305.06152). The grammar is that of ``data/texts/swaps.py``.
"""

import functools
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.orders.base import mix
from jaxrep.data.source import Examples
from jaxrep.data.transforms import word_swaps
from jaxrep.data.transforms.select import WrappedExamples, WrappedSource
from jaxrep.data.transforms.triples import FORMS, Form, exchanges
from jaxrep.data.values import content_id
from jaxrep.spec import spec

SITE = np.uint64(zlib.crc32(b"wrong caption"))
"""Keeps these draws apart from others of the same key."""

Way = Literal["replace", "exchange", "graph"]
_tagger = functools.lru_cache(4)(
    word_swaps.tagger
)  # a model of spaCy does not travel to worker processes: each loads it


@spec
class HardNegativeCaptions(WrappedSource):
    """Adds a wrong caption beside each caption, drawn anew each epoch: first its kind, then one of the kind.

    ``<name>/present`` says where there is one (the others are empty). ``<of>_id`` and ``<name>_id`` are hashes of the
    texts, so that it is known where one picture's wrong caption is another's right one.
    """

    of: str = "text"
    """Field of the captions, one an example."""
    name: str = "negative"
    """Field of the wrong ones."""
    ways: tuple[Way, ...] = ("exchange",)
    """replace: a phrase gives way to another that excludes it. exchange: two phrases of one kind change places. graph:
    subject and object of a relation do, or what is said of two subjects."""
    kinds: tuple[str, ...] = ()
    """Kinds of phrases that are changed, as noun, skin_tone, object; empty: all."""
    only_known: bool = False
    """Only wrong captions that are right elsewhere in the data: none can then be told by never being right. All
    captions are held in memory."""
    lexicon: str = ""
    """A file of phrases that exclude one another, as ``jaxrep/data/transforms/swaps.txt``; empty: that file."""
    spacy: str = ""
    """The model of spaCy that finds parts of speech, as en_core_web_sm; empty: the words of the package's lexicon."""
    triples: str = "triples"
    """Field of what a caption says, for the way graph."""
    form: Form = "lines"
    """What that field holds: lines ``subject | relation | object``, or names "subject: detail, detail"."""

    def texts(self) -> tuple[str, ...]:
        return (self.of, self.triples) if "graph" in self.ways else (self.of,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ways:
            yield "ways is empty: say how a caption is made wrong"

    def fields(self) -> dict[str, Field]:
        ids = {f"{name}_id": Field((), "int32") for name in (self.of, self.name)}
        return {**self.source.fields(), self.name: Field((), "str"), f"{self.name}/present": Field((), "bool"), **ids}

    def open(self) -> Examples:
        return HardNegativeExamples(self, self.source.open())

    def wrong(self, caption: str, said: str, groups: tuple[word_swaps.Group, ...]) -> list[word_swaps.Negative]:
        """All wrong captions of a caption; ``said``: its triples."""
        found = []
        if "replace" in self.ways:
            found += word_swaps.replacements(caption, groups)
        if "exchange" in self.ways:
            found += word_swaps.exchanges(
                caption, [*word_swaps.phrases(caption, groups), *_tagger(self.spacy)(caption)]
            )
        if "graph" in self.ways:
            found += exchanges(caption, FORMS[self.form](said))
        return [negative for negative in found if not self.kinds or negative.kind in self.kinds]


class HardNegativeExamples(WrappedExamples):
    """``HardNegativeCaptions`` of examples."""

    def __init__(self, source: HardNegativeCaptions, examples: Examples):
        super().__init__(examples)
        self._source, self._groups = source, word_swaps.read(source.lexicon)
        self._known = frozenset(examples.column(source.of)) if source.only_known else None

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        source, captions = self._source, columns[self._source.of]
        said = columns[source.triples] if "graph" in source.ways else [""] * len(captions)
        draws = mix((indices.astype(np.uint64) if keys is None else keys) + SITE)
        wrong = [self._one(*row) for row in zip(captions, said, draws.tolist(), strict=True)]
        return {
            **columns,
            source.name: wrong,
            f"{source.name}/present": np.array([text != "" for text in wrong], bool),
            f"{source.of}_id": _ids(captions),
            f"{source.name}_id": _ids(wrong),
        }

    def _one(self, caption: str, said: str, key: int) -> str:
        """A wrong caption by a key, or an empty one."""
        wrong = self._source.wrong(caption, said, self._groups)
        drawn = word_swaps.drawn([n for n in wrong if self._known is None or n.text in self._known], key)
        return "" if drawn is None else drawn.text

    def column(self, name: str) -> Any:
        source = self._source
        if name == f"{source.of}_id":
            return _ids(self.inner.column(source.of))
        if name not in (source.name, f"{source.name}_id", f"{source.name}/present"):
            return self.inner.column(name)
        fields = {field: self.inner.column(field) for field in source.reads()}
        return self.changed(fields, np.arange(len(self)), None)[name]


def _ids(texts: Any) -> np.ndarray:
    return np.array([content_id(text.encode()) for text in texts], np.int32)
