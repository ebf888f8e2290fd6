"""Retrieval among held-out pairs: which text belongs to an image, and which image to a text."""

from collections.abc import Iterator

import numpy as np

from jaxrep.data.sources.karpathy import Karpathy
from jaxrep.evals.retrieval.captioned_eval import CaptionedEval
from jaxrep.metrics.ranking import average_precision, join, places
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


@spec
class Retrieval(CaptionedEval):
    """Recall and mean average precision at k, and the median rank, both ways, among all candidates of the data.

    ``<way>/r<k>``: the share of queries with a right candidate among the first k; ``<way>/map<k>``: the mean of
    ``average_precision`` (at 1 both are the same); ``<way>/median_rank``: of the first right candidate, from 1.

    An image may have several texts: as a query it is right with any of them. Pictures of one ``image_id`` are the same
    answer, and so are texts of one ``text_id``: right for a query is all that is paired with it anywhere in the data,
    whichever copy. Without such columns, each picture is one of its own, and equal strings are equal texts.
    """

    ks: tuple[int, ...] = (1, 5, 10)
    """How many of the first candidates are looked at."""
    name: str = "retrieval"
    """First part of the metrics' names."""

    @classmethod
    def coco(cls, folder: str, *, image_size: int = 224, split: str = "test") -> "Retrieval":
        """COCO in Karpathy's split (test: 5,000 pictures with five captions each). ``folder`` holds
        ``dataset_coco.json`` and COCO's own folders ``val2014`` and ``train2014``."""
        return cls(data=_karpathy(folder, "dataset_coco.json", "", image_size, split), name="coco")

    @classmethod
    def flickr30k(cls, folder: str, *, image_size: int = 224, split: str = "test") -> "Retrieval":
        """Flickr30k in Karpathy's split (test: 1,000 pictures with five captions each). ``folder`` holds
        ``dataset_flickr30k.json`` and the pictures' folder ``flickr30k-images``."""
        return cls(
            data=_karpathy(folder, "dataset_flickr30k.json", "flickr30k-images", image_size, split), name="flickr30k"
        )

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ks or min(self.ks) < 1:
            yield f"ks counts candidates, from 1, and is not {self.ks}"

    def run(self, model: Model) -> dict[str, float]:
        images, texts, pairs = self.pairs(model)
        metrics = {}
        for query, candidate, way in (
            (images, texts, f"{self.image}_to_{self.text}"),
            (texts, images, f"{self.text}_to_{self.image}"),
        ):
            found = places(
                query.embeddings, candidate.embeddings, right_pairs(query.ids, candidate.ids, pairs), max(self.ks)
            )
            for k in self.ks:
                metrics[f"{self.name}/{way}/r{k}"] = Sample(found[:, 0] <= k)
            for k in self.ks:
                if k > 1:
                    metrics[f"{self.name}/{way}/map{k}"] = Sample(average_precision(found, k))
            metrics[f"{self.name}/{way}/median_rank"] = Sample(found[:, 0], "median")
            pairs = pairs[:, ::-1]
        return metrics


def right_pairs(query_ids: np.ndarray, candidate_ids: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (query, candidate) of everything whose ids are among ``pairs`` [M,2]: (query id, candidate id)."""
    pairs = np.unique(pairs, axis=0)
    query, pair = join(query_ids, pairs[:, 0])
    at, candidate = join(pairs[pair, 1], candidate_ids)
    return query[at], candidate


def _karpathy(folder: str, listing: str, images: str, image_size: int, split: str) -> Karpathy:
    root = folder.rstrip("/")
    return Karpathy(path=f"{root}/{listing}", images=f"{root}/{images}", image_size=image_size, split=split)
