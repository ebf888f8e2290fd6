"""Parse what a caption states as triples (subject, relation, object): texts beside it, and a guide to wrong captions.

Huang et al. 2024, Structure-CLIP (arXiv:2305.06152). A scene-graph parser writes the triples as lines
``subject | relation | object``; the triples of simple captions, such as names of emojis, are read from the caption.
"""

import re
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.transforms import word_swaps
from jaxrep.data.transforms.base import FieldTransform
from jaxrep.spec import Count, spec

ATTRIBUTES = ("is", "has")
"""Relations whose object is an attribute of the subject, and not another thing."""
MAX_TRIPLES = 32
"""Triples of a caption that are exchanged with one another; further ones are not."""
_RELATION = re.compile(r" (with|without|in|on|of|over|facing|wearing|holding|pushing|throwing) ")


class Triple(NamedTuple):
    """Hold one statement."""

    subject: str
    relation: str
    object: str


def parse_lines(text: str) -> list[Triple]:
    """Parse the triples of lines ``subject | relation | object``; other lines are ignored."""
    rows = [[part.strip() for part in line.split("|")] for line in text.splitlines()]
    return [Triple(*row) for row in rows if len(row) == 3 and all(row)]


def parse_name(name: str) -> list[Triple]:
    """Parse a name such as "woman with veil: dark skin tone"; the subject "has" each detail after the colon."""
    thing, _, details = name.partition(": ")
    subject, *rest = _RELATION.split(thing)
    related = [Triple(subject, *pair) for pair in zip(rest[::2], rest[1::2], strict=True)]
    return related + [Triple(subject, "has", detail) for detail in details.split(", ") if detail]


def exchanges(caption: str, triples: list[Triple]) -> list[word_swaps.Negative]:
    """Return the caption with two phrases of its triples exchanged, if the caption has these phrases.

    These are the subject and the object of a relation (kind: object), or attributes of two different subjects (kind:
    attribute).
    """
    triples = triples[:MAX_TRIPLES]
    pairs = [(t.subject, t.object, "object") for t in triples if t.relation not in ATTRIBUTES]
    attributes = [t for t in triples if t.relation in ATTRIBUTES]
    pairs += [(s.object, t.object, "attribute") for s, t in combinations(attributes, 2) if s.subject != t.subject]
    negatives = []
    for one, other, kind in pairs:
        groups = (word_swaps.Group(kind, (one,)), word_swaps.Group(kind, (other,)))
        negatives += word_swaps.exchanges(caption, word_swaps.phrases(caption, groups))
    return list(dict.fromkeys(negatives))


Form = Literal["lines", "names"]
"""Format of triples: lines ``subject | relation | object``, or names "subject: detail, detail"."""
FORMS: Mapping[Form, Callable[[str], list[Triple]]] = {"lines": parse_lines, "names": parse_name}


@spec
class ParseTriples(FieldTransform):
    """Add the triples of a caption: ``<name>`` holds 3 ``count`` texts per example, the parts of one triple in a row.

    Where there are fewer triples, the last texts are empty; where there are more, the first ones are taken.
    ``<name>/present`` tells whether there is at least one.
    """

    field: str = "triples"
    """Field to read the triples from."""
    form: Form = "lines"
    """Format of the field: lines ``subject | relation | object``, or names "subject: detail, detail"."""
    name: str = "knowledge"
    """Field of the texts."""
    count: Count = 6
    """Triples per example (Huang et al. 2024, released code)."""

    def texts(self) -> tuple[str, ...]:
        return (self.field,)

    def added(self) -> dict[str, Field]:
        return {self.name: Field((3 * self.count,), "str"), f"{self.name}/present": Field((), "bool")}

    def transform(self, columns: dict[str, Any], indices: np.ndarray, keys: np.ndarray | None) -> dict[str, Any]:
        parse = FORMS[self.form]
        rows = [[part for triple in parse(text)[: self.count] for part in triple] for text in columns[self.field]]
        padded = [(*row, *[""] * (3 * self.count - len(row))) for row in rows]
        return {self.name: padded, f"{self.name}/present": np.array([len(row) > 0 for row in rows], bool)}
