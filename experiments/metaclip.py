"""MetaCLIP: CLIP on pairs that are balanced over half a million concepts (Xu et al. 2024, arXiv:2309.16671).

The pool is curated once, in two passes over its texts, by a file of entries (WordNet's synsets, words, pairs of words
and titles of Wikipedia: table 1):

    jaxrep data curate 'tar:gs://YOUR-BUCKET/pool/{00000..159999}.tar' --metadata metadata.json --t 20000 \
        --out gs://YOUR-BUCKET/curated

``tiny`` does the same in memory: a heavy-tailed pool of OpenMoji, balanced over the words of its names.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from experiments import clip
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.sources.tar.shards import TarShards
from jaxrep.data.transforms.balanced import Balanced, Curated
from jaxrep.data.transforms.entry_matcher import spaced, vocabulary
from jaxrep.data.transforms.select import Subset, WrappedSource
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.evals.classification.zero_shot import ZeroShot
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.spec import spec


def curated(kept: str) -> Curated:
    """The pools are not public: point this at shards of your own, and at what was kept of them."""
    pool = TarShards(shards="gs://YOUR-BUCKET/pool/{00000..159999}.tar", image_size=256)
    return Curated(source=pool, kept=f"gs://YOUR-BUCKET/curated/{kept}")


# "We strictly follow the CLIP training setup" (section 4, table 12): batch 32,768, 5e-4, 2,000 steps of warm-up, 12.8
# billion pairs seen, quick GELU. So all but the data is CLIP's.
recipe = clip.vit_b32.replace({"data.train": curated("t20000-seed0")})  # 400 M of 1.6 G pairs (section 3.4)

vit_b16 = clip.vit_b16.replace({"data.train": recipe.data.train})

vit_l14 = clip.vit_l14.replace({"data.train": recipe.data.train})  # 4e-4: table 12

# 2.5 G of 10.7 G pairs (section 4). The rate and the widths of the text tower are the released code's.
vit_h14 = vit_l14.replace(
    {
        "data.train": curated("t170000-seed0"),
        "method.towers.image": ViT.h14().as_clip(),
        "method.towers.text": TextTransformer(width=1024, depth=24, heads=16, activation="quick_gelu"),
        "method.dim": 1024,
    }
)


@spec
class HeavyTailed(WrappedSource):
    """Examples drawn with replacement, as a crawl of the web would hold them: most of them show a few concepts.

    The words of all texts are put in a random order, and the word at place r is drawn 1 / r as often as the first; an
    example is as frequent as its most frequent word.
    """

    count: int
    """Examples of the pool."""
    seed: int = 0
    """Seed of the order and the draws."""

    def reads(self) -> tuple[str, ...]:
        return ("text",)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.count < 1:
            yield f"count is a number of examples: at least 1, got {self.count}"

    def open(self) -> Subset:
        examples, draw = self.source.open(), np.random.default_rng(self.seed)
        texts = examples.column("text")
        words = draw.permutation(vocabulary(texts))
        weight = {str(word): 1 / place for place, word in enumerate(words, 1)}
        weights = np.array([max(weight.get(word, 0.0) for word in spaced(text).split()) for text in texts])
        return Subset(examples, np.sort(draw.choice(len(texts), self.count, p=weights / weights.sum())))


def emoji(part: Literal["train", "test"]) -> OpenMoji:
    """At random, so that concepts of all kinds are asked for; what the other split holds out are people."""
    return OpenMoji(image_size=48, split="random", part=part)


pool = HeavyTailed(source=emoji("train"), count=20_000)

# Entries of up to t texts make up 6.3% of all matches, as they do 6% of the paper's, by which it scales t (section 4).
tiny = clip.tiny.replace(
    {"data.train": Balanced(source=pool, t=40)},
    evals=(Retrieval(data=emoji("test")), ZeroShot(data=emoji("test"), label="group")),
)
