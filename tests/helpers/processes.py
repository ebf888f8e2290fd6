"""The small CLIP, measured as it is trained, with an evaluation that says which pictures this process has read."""

import zlib

import numpy as np

from experiments.image_text.clip import tiny
from jaxrep.data.openmoji.emoji import OpenMoji
from jaxrep.data.source import Source
from jaxrep.data.transforms.base import WrappedExamples
from jaxrep.data.transforms.subsets import Take
from jaxrep.errors import BadSample
from jaxrep.evals.base import Eval
from jaxrep.evals.embed import embed_rows
from jaxrep.evals.retrieval.retrieval import Retrieval
from jaxrep.spec import spec

TEST = Take(source=OpenMoji(image_size=32, part="test"), count=100)
BAD = 60


class Noted(WrappedExamples):
    """Examples that note which of them are read; one cannot be."""

    def __init__(self, examples):
        super().__init__(examples)
        self.read = set()

    def gather(self, indices, keys=None, substitute=None):
        self.read |= set(indices.tolist())
        if BAD in indices:
            raise BadSample("a.tar, member 300.jpg", "the image is empty")
        return self.inner.gather(indices)


@spec
class Read(Eval):
    """Numbers that tell embeddings, ids and texts, and their order, from others."""

    data: Source = TEST
    """Pictures with texts."""
    output: str = ""
    """As of other evaluations."""
    name: str = "read"
    """First part of the metrics' names."""

    def run(self, model):
        examples = Noted(self.data.open())
        images, columns = embed_rows(model, examples, "image", (self.output,), ["text", "image_id"], unit=True)
        print(f"read {len(examples.read)} of {len(examples)} pictures", flush=True)
        weights = np.random.default_rng(0).normal(size=images.shape)
        found = {
            "rows": len(images),
            "images": np.sum(weights * images),
            "ids": np.dot(np.arange(len(images)), columns["image_id"]) % 1_000_003,
            "texts": zlib.crc32("\n".join(columns["text"]).encode()) % 1_000_003,
        }
        return {f"{self.name}/{name}": float(value) for name, value in found.items()}


recipe = tiny.replace(
    evals=(
        Retrieval(data=TEST, every_steps=4),
        Read(every_steps=4),
        Read(every_steps=4, output="pixels", name="pixels"),
    )
)
