"""Pairs as the tests of transforms use them: images with captions, metadata, and one unreadable example."""

import numpy as np

from jaxrep.batch import Field
from jaxrep.data.source import Examples, Source
from jaxrep.errors import BadSample
from jaxrep.spec import spec

N = 12
SCORES = np.where(np.arange(N) == 5, np.nan, np.arange(N) / 10)


@spec
class Pairs(Source):
    """Images with one caption and three more, and a score and a license as metadata."""

    def fields(self):
        number, text = Field((), "int32"), Field((), "str")
        several = {"more": Field((3,), "str"), "more_id": Field((3,), "int32")}
        return {"image": Field((2, 2, 3), "uint8"), "caption": text, "caption_id": number, **several}

    def open(self):
        return PairExamples()


METADATA = {"score": SCORES, "license": ["by", "by-sa", ""] * 4}
CAPTIONS = [f"c{i}" for i in range(N)]
MORE = [tuple(f"m{i}-{view}" for view in range(3)) for i in range(N)]


class PairExamples(Examples):
    def __len__(self):
        return N

    @property
    def shard_ends(self):
        return np.array([3, 3, 8, N])

    def shard(self, index):
        return f"{np.searchsorted(self.shard_ends, index, side='right')}.tar"

    def __getitem__(self, index):
        if index == 7:
            raise BadSample("2.tar, member 7", "it is empty")
        return {
            "image": np.full((2, 2, 3), index, np.uint8),
            "caption": CAPTIONS[index],
            "caption_id": np.int32(index),
            "more": MORE[index],
            "more_id": np.array([100 + index, 200 + index, 300 + index], np.int32),
        }

    def column(self, name):
        return {**METADATA, "caption": CAPTIONS, "more": MORE}[name]


ROWS = np.array([4, 0, 11, 6])
KEYS = np.arange(4, dtype=np.uint64)
