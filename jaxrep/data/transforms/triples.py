"""What a caption says as triples (subject, relation, object): knowledge beside the text, and a guide to wrong captions.

Huang et al. 2024, Structure-CLIP (arXiv:2305.06152). A parser of scene graphs writes them as lines
``subject | relation | object``; of captions that are as simple as the names of emojis they are read off.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples
from jaxrep.data.transforms import word_swaps
from jaxrep.data.transforms.select import WrappedExamples, WrappedSource
from jaxrep.spec import spec

ATTRIBUTES = ("is", "has")
"""Relations whose object is said of the subject, and is no thing beside it."""
_RELATION = re.compile(r" (with|without|in|on|of|over|facing|wearing|holding|pushing|throwing) ")


class Triple(NamedTuple):
    """One statement."""

    subject: str
    relation: str
    object: str


def parse(text: str) -> list[Triple]:
    """The triples of lines ``subject | relation | object``; other lines are left out."""
    rows = [[part.strip() for part in line.split("|")] for line in text.splitlines()]
    return [Triple(*row) for row in rows if len(row) == 3 and all(row)]


def of_name(name: str) -> list[Triple]:
    """The triples of a name such as "woman with veil: dark skin tone": each detail after the colon is what it has."""
    thing, _, details = name.partition(": ")
    subject, *rest = _RELATION.split(thing)
    related = [Triple(subject, *pair) for pair in zip(rest[::2], rest[1::2], strict=True)]
    return related + [Triple(subject, "has", detail) for detail in details.split(", ") if detail]


def exchanges(caption: str, triples: list[Triple]) -> list[word_swaps.Negative]:
    """The caption with subject and object of a relation in each other's place (kind: object), or what is said of two
    different subjects (kind: attribute), where the caption has these words."""
    pairs = [(t.subject, t.object, "object") for t in triples if t.relation not in ATTRIBUTES]
    said = [t for t in triples if t.relation in ATTRIBUTES]
    pairs += [(s.object, t.object, "attribute") for s, t in combinations(said, 2) if s.subject != t.subject]
    found = []
    for one, other, kind in pairs:
        groups = (word_swaps.Group(kind, (one,)), word_swaps.Group(kind, (other,)))
        found += word_swaps.exchanges(caption, word_swaps.phrases(caption, groups))
    return list(dict.fromkeys(found))


Form = Literal["lines", "names"]
"""Lines ``subject | relation | object``, or names "subject: detail, detail"."""
FORMS: Mapping[Form, Callable[[str], list[Triple]]] = {"lines": parse, "names": of_name}


@spec
class Triples(WrappedSource):
    """Adds what a caption says: ``<name>``, 3 ``count`` texts an example, the parts of its triples one after the other.

    Where there are fewer triples the last texts are empty; where there are more, the first ones count.
    ``<name>/present`` says where there is one at all.
    """

    of: str = "triples"
    """Field that they are read from."""
    form: Form = "lines"
    """What the field holds: lines ``subject | relation | object``, or names "subject: detail, detail"."""
    name: str = "knowledge"
    """Field of the texts."""
    count: int = 6
    """Triples of an example (Huang et al. 2024, released code)."""

    def texts(self) -> tuple[str, ...]:
        return (self.of,)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.count < 1:
            yield f"count is a number of triples: at least 1, got {self.count}"

    def fields(self) -> dict[str, Field]:
        own = {self.name: Field((3 * self.count,), "str"), f"{self.name}/present": Field((), "bool")}
        return {**self.source.fields(), **own}

    def open(self) -> Examples:
        return Tripled(self, self.source.open())


class Tripled(WrappedExamples):
    """``Triples`` of examples."""

    def __init__(self, source: Triples, examples: Examples):
        super().__init__(examples)
        self._source = source

    def changed(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        return {**columns, **self._own(columns[self._source.of])}

    def column(self, name: str) -> Any:
        if name not in (self._source.name, f"{self._source.name}/present"):
            return self.inner.column(name)
        return self._own(self.inner.column(self._source.of))[name]

    def _own(self, texts: list[str]) -> dict[str, Any]:
        read, count, name = FORMS[self._source.form], self._source.count, self._source.name
        rows = [[part for triple in read(text)[:count] for part in triple] for text in texts]
        laid = [(*row, *[""] * (3 * count - len(row))) for row in rows]
        return {name: laid, f"{name}/present": np.array([len(row) > 0 for row in rows], bool)}
