"""Score the pairs of a data set: the cosine similarity of image and text, a column for filters of the data."""

from collections.abc import Callable

import numpy as np

from jaxrep.data.bad_samples import BadSampleReport
from jaxrep.data.source import Source
from jaxrep.embeddings.embed_source import PER_SHARD, embedding_job
from jaxrep.embeddings.embedder import Embedder
from jaxrep.embeddings.formats import Part
from jaxrep.embeddings.job import Job
from jaxrep.model import Model

SIMILARITY = "similarity"
"""Column of the scores."""


def scoring_job(
    model: Model, source: Source | str, out: str, *, per_shard: int = PER_SHARD, model_path: str = ""
) -> tuple[Job, "Scorer"]:
    """Declare the job that scores all pairs of a source, and what scores its rows; arguments as of ``embedding_job``.

    Raises UsageError: the model or the source lacks images or texts, or ``out`` cannot be written.
    """
    fields, parts = ("image", "text"), (SIMILARITY,)
    job, embedder = embedding_job(
        model, source, out, fields=fields, parts=parts, per_shard=per_shard, model_path=model_path
    )
    return job, Scorer(embedder)


class Scorer:
    """Score ranges of pairs."""

    def __init__(self, embedder: Embedder):
        self._embedder = embedder

    def __call__(self, rows: range, advance: Callable[[int], None] = lambda rows: None) -> tuple[Part, BadSampleReport]:
        """Return the scores of all pairs, NaN for unreadable ones, and a report on these. Raises BadShard."""
        part, report = self._embedder(rows, advance)
        scores, keys = np.full(len(rows), np.nan, np.float32), {}
        if part is not None:
            scores[part["index"] - rows.start] = np.einsum("nd,nd->n", part["image"], part["text"])
            keys = dict(zip(part["index"].tolist(), part["key"].tolist(), strict=True))
        names = np.array([keys.get(row) or self._embedder.key(row) for row in rows])
        return {"key": names, "index": np.arange(rows.start, rows.stop), SIMILARITY: scores}, report
