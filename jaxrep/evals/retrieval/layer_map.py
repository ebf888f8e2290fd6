"""How good sentences are at every layer and width: a map over what an embedding costs (Li et al. 2024, 2D Matryoshka
Sentence Embeddings, arXiv:2402.14776, section 5)."""

from collections.abc import Iterator

import numpy as np

from jaxrep.data.source import Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval
from jaxrep.evals.retrieval.retrieval import right_pairs
from jaxrep.metrics.ranking import places, unit_rows
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class LayerMap(Eval):
    """Which of all second texts belongs to a first one, by the features of each layer, cut to each width.

    ``<layer>/<dim>/r1``: the share of first texts that find a right one at once; layers count from 1. Texts of one
    ``<text>_id`` are the same answer.
    """

    data: Source
    """Examples with two texts or more, of which the first two are a pair."""
    dims: tuple[int, ...]
    """Widths to which features are cut."""
    text: str = "text"
    """Field of the texts; ``<text>_id`` is their id. The model emits ``<text>/layers``."""
    name: str = "layers"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"{self.text}/layers",)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.dims or min(self.dims) < 1:
            yield f"dims are widths, at least one of them and each at least 1, got {self.dims}"
        field = self.data.fields().get(self.text)
        if field is None or not field.shape or field.shape[0] < 2:
            yield f"the data have no field '{self.text}' of two texts an example"

    def run(self, model: Model) -> dict[str, float]:
        examples = self.data.open()
        texts, ids = examples.column(self.text), np.asarray(examples.column(f"{self.text}_id"))
        first, second = (self._features(model, [pair[side] for pair in texts]) for side in (0, 1))
        if first.shape[2] < max(self.dims):
            raise JaxrepError(f"{self.name}: features are {first.shape[2]} wide, and dims ask for {max(self.dims)}")
        right = right_pairs(ids[:, 0], ids[:, 1], ids[:, :2])
        found = {}
        for layer in range(first.shape[1]):
            for dim in self.dims:
                a, b = (unit_rows(features[:, layer, :dim]) for features in (first, second))
                found[f"{self.name}/{layer + 1}/{dim}/r1"] = Sample(places(a, b, right, 1)[:, 0] <= 1)
        return found

    def _features(self, model: Model, texts: list[str]) -> np.ndarray:
        """float32 [N,depth,D]."""
        tokens = model.tokenize(texts)
        batch = {self.text: tokens["text"], f"{self.text}/valid": tokens["text/valid"]}
        return model.outputs(batch, self.reads)[self.reads[0]]
