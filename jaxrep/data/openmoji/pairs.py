"""Pair names of emojis for text similarity: the same emoji in two languages, or more and less similar emojis."""

import itertools
from typing import Literal

import numpy as np

from jaxrep.batch import Field
from jaxrep.data._util.hashing import splitmix64
from jaxrep.data.openmoji.emoji import Language, OpenMojiSource, emoji_names, factorize, in_part, load_emojis
from jaxrep.data.source import Columns, Examples
from jaxrep.spec import spec

LEVELS = ("group", "subgroup", "concept")
"""From wide to narrow; the similarity of two names is the number of levels that their emojis share."""


@spec
class EmojiPairs(OpenMojiSource):
    """Pair the name of each emoji in one language with names in another language.

    An emoji has up to five pairs: with itself (label 1, score 4), with another emoji of its concept (score 3), of its
    subgroup (2), of its group (1), and of another group (0).
    """

    languages: tuple[Language, Language] = ("en", "de")
    """Languages of the first and the second text. If they are the same, the pairs with itself are equal texts."""
    part: Literal["train", "test", "all"] = "test"
    """Side of the split."""

    def fields(self) -> dict[str, Field]:
        text, number = Field((), "str"), Field((), "int32")
        return {"text": text, "text_2": text, "label": Field((), "int32", 2), "score": number}

    def open(self) -> Examples:
        everything = load_emojis()
        emojis = list(itertools.compress(everything, in_part(everything, self.split, self.part)))
        first, second = (emoji_names(emojis, language) for language in self.languages)
        levels = np.stack([factorize([getattr(emoji, level) for emoji in emojis]) for level in LEVELS])
        rows = [(text, second[i], len(LEVELS) + 1) for i, text in enumerate(first)]
        for i, text in enumerate(first):
            shared = np.cumprod(levels == levels[:, i : i + 1], axis=0).sum(axis=0)
            for score in range(len(LEVELS) + 1):
                others = [j for j in np.flatnonzero(shared == score) if second[j] != second[i]]
                if others:
                    draw = int(splitmix64(np.array([4 * i + score], np.uint64))[0])
                    rows.append((text, second[others[draw % len(others)]], score))
        scores = np.array([score for *_, score in rows], np.int32)
        columns = {"text": [text for text, *_ in rows], "text_2": [other for _, other, _ in rows]}
        return Columns({**columns, "label": (scores == len(LEVELS) + 1).astype(np.int32), "score": scores})
