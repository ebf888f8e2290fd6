"""Retrieval quality of sentence embeddings per layer and width (Li et al. 2024, arXiv:2402.14776, section 5).

The paper is 2D Matryoshka Sentence Embeddings.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np

from jaxrep.data.loading.readable import read_columns
from jaxrep.data.source import Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, Model
from jaxrep.evals.retrieval.captioned_eval import positive_pairs
from jaxrep.metrics.ranking import positive_ranks, unit_rows
from jaxrep.reads import Reads
from jaxrep.spec import Count, spec


@spec
class LayerMap(Eval):
    """Measure the retrieval of second texts by first texts, with the features of each layer, cut to each width.

    Texts with equal ``<text>_id`` are the same answer.

    Metrics:
        ``<layer>/<dim>/r1``: share of the first texts whose nearest second text is correct. Layers count from 1.
    """

    data: Source
    """Examples with two texts or more. The first two texts are a pair."""
    dims: tuple[Count, ...]
    """Widths to which features are cut."""
    text: Annotated[str, Reads(outputs=("{}/layers",), columns=("{}", "{}_id"))] = "text"
    """Column of the texts. ``<text>_id`` is their id. The model emits ``<text>/layers``."""
    name: str = "layers"

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        field = self.data.fields().get(self.text)
        if field is not None and (not field.shape or field.shape[0] < 2):
            yield f"the column '{self.text}' of data has not two texts per example"

    def run(self, model: Model) -> dict[str, float]:
        texts, ids = read_columns(self.data.open(), (self.text, f"{self.text}_id")).values()
        first, second = (self._features(model, [pair[side] for pair in texts]) for side in (0, 1))
        if first.shape[2] < max(self.dims):
            raise JaxrepError(f"{self.name}: features have width {first.shape[2]}, and dims asks for {max(self.dims)}")
        positives = positive_pairs(ids[:, 0], ids[:, 1], ids[:, :2])
        metrics = {}
        for layer in range(first.shape[1]):
            for dim in self.dims:
                a, b = (unit_rows(features[:, layer, :dim]) for features in (first, second))
                metrics[f"{layer + 1}/{dim}/r1"] = positive_ranks(a, b, positives, 1)[:, 0] <= 1
        return self.named(metrics)

    def _features(self, model: Model, texts: list[str]) -> np.ndarray:
        """Return features float32 [N,depth,D]."""
        tokens = model.tokenize(texts)
        batch = {self.text: tokens["text"], f"{self.text}/valid": tokens["text/valid"]}
        return model.outputs(batch, self.reads)[self.reads[0]]
