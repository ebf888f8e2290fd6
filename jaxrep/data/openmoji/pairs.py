"""Pairs of emojis' names as data for similarity of texts: the same emoji in two languages, or near and far ones."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.openmoji.emoji import ATTRIBUTION, LANGUAGES, emojis, held_out, names, same
from jaxrep.data.orders.base import mix
from jaxrep.data.source import Columns, Examples, Source
from jaxrep.spec import spec

LEVELS = ("group", "subgroup", "concept")
"""From wide to narrow; how many of them two emojis share is how similar their names are said to be."""


@spec
class EmojiPairs(Source):
    """Five pairs an emoji where they exist: its name in one language with that of itself in another (label 1, score 4),
    of another one of its concept (score 3), subgroup (2), group (1), and of another group (0)."""

    attribution: ClassVar[str] = ATTRIBUTION

    languages: tuple[str, str] = ("en", "de")
    """Languages of the first and the second text; twice the same: such as are equal are the easy pairs."""
    split: Literal["compositional", "random"] = "compositional"
    """As of ``OpenMoji``."""
    part: Literal["train", "test", "all"] = "test"
    """Which side of the split."""

    def problems(self) -> Iterator[str]:
        for language in self.languages:
            if language not in LANGUAGES:
                yield f"there are no names in language '{language}'; there are: {', '.join(LANGUAGES)}"

    def fields(self) -> dict[str, Field]:
        text, number = Field((), "str"), Field((), "int32")
        return {"text": text, "text_2": text, "label": Field((), "int32", 2), "score": number}

    def open(self) -> Examples:
        out = held_out(self.split)
        taken = [each for each in emojis() if self.part == "all" or (each.code in out) == (self.part == "test")]
        first, second = (names(taken, language) for language in self.languages)
        levels = np.stack([same([getattr(each, level) for each in taken]) for level in LEVELS])
        rows = [(text, second[i], len(LEVELS) + 1) for i, text in enumerate(first)]
        for i, text in enumerate(first):
            shared = np.cumprod(levels == levels[:, i : i + 1], axis=0).sum(axis=0)
            for score in range(len(LEVELS) + 1):
                others = [j for j in np.flatnonzero(shared == score) if second[j] != second[i]]
                if others:
                    draw = int(mix(np.array([4 * i + score], np.uint64))[0])
                    rows.append((text, second[others[draw % len(others)]], score))
        scores = np.array([score for *_, score in rows], np.int32)
        columns = {"text": [text for text, *_ in rows], "text_2": [other for _, other, _ in rows]}
        return Columns({**columns, "label": (scores == len(LEVELS) + 1).astype(np.int32), "score": scores})
