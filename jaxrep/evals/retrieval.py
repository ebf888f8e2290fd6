"""Retrieval among held-out pairs: which text belongs to an image, and which image to a text."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxrep.data.karpathy import Karpathy
from jaxrep.data.source import Source
from jaxrep.errors import hint
from jaxrep.evals.embed import embed_images, embed_texts
from jaxrep.evals.eval import Eval
from jaxrep.evals.ranks import average_precision, join, places
from jaxrep.evals.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec


class Items(NamedTuple):
    """One side of the pairs."""

    embeddings: np.ndarray  # float32 [N,D]
    ids: np.ndarray  # [N]: items of equal ids are the same answer


@spec
class Retrieval(Eval):
    """Recall and mean average precision at k, and the median rank, both ways, among all candidates of the data.

    ``<way>/r<k>``: the share of queries with a right candidate among the first k; ``<way>/map<k>``: the mean of
    ``average_precision`` (at 1 both are the same); ``<way>/median_rank``: of the first right candidate, from 1.

    An image may have several texts: as a query it is right with any of them. Pictures of one ``image_id`` are the same
    answer, and so are texts of one ``text_id``: right for a query is all that is paired with it anywhere in the data,
    whichever copy. Without such columns, each picture is one of its own, and equal strings are equal texts.
    """

    data: Source
    """The pairs: images with one text or a tuple of texts each."""
    image: str = "image"
    """Field of the images; ``<image>_id`` is their id."""
    text: str = "text"
    """Field of the texts; ``<text>_id`` is their id."""
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

    @property
    def reads(self) -> tuple[str, ...]:
        return self.image, self.text

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ks or min(self.ks) < 1:
            yield f"ks counts candidates, from 1, and is not {self.ks}"
        fields = self.data.fields()
        for field in (self.image, self.text):
            if field not in fields:
                yield f"the data has no field '{field}'; {hint(field, fields)}"

    def run(self, model: Model) -> dict[str, float]:
        images, texts, pairs = embed_pairs(model, self.data, self.image, self.text)
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


def embed_pairs(model: Model, data: Source, image: str, text: str) -> tuple[Items, Items, np.ndarray]:
    """Images, texts, and the ids [M,2] of every image with its text."""
    image_id, text_id = f"{image}_id", f"{text}_id"
    known = [name for name in (image_id, text_id) if name in data.fields()]
    images, columns = embed_images(model, data.open(), image, [text, *known])
    groups = [(one,) if isinstance(one, str) else one for one in columns[text]]
    texts = [one for group in groups for one in group]
    image_ids = np.array(columns[image_id]) if image_id in columns else np.arange(len(images))
    if text_id in columns:
        text_ids = np.concatenate([np.atleast_1d(value) for value in columns[text_id]])
    else:
        text_ids = np.unique(texts, return_inverse=True)[1]
    pairs = np.stack([np.repeat(image_ids, [len(group) for group in groups]), text_ids], 1)
    return Items(images, image_ids), Items(embed_texts(model, texts, text), text_ids), pairs


def right_pairs(query_ids: np.ndarray, candidate_ids: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (query, candidate) of everything whose ids are among ``pairs`` [M,2]: (query id, candidate id)."""
    pairs = np.unique(pairs, axis=0)
    query, pair = join(query_ids, pairs[:, 0])
    at, candidate = join(pairs[pair, 1], candidate_ids)
    return query[at], candidate


def _karpathy(folder: str, listing: str, images: str, image_size: int, split: str) -> Karpathy:
    root = folder.rstrip("/")
    return Karpathy(path=f"{root}/{listing}", images=f"{root}/{images}", image_size=image_size, split=split)
