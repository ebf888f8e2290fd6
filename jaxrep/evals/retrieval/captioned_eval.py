"""Base class of evaluations on images with captions."""

from collections.abc import Iterator

import numpy as np

from jaxrep.data.source import Source, as_captions, ranked
from jaxrep.evals.base import Eval, Model, TowerColumn
from jaxrep.evals.embed import embed_rows, embed_texts
from jaxrep.metrics.ranking import IndexPairs, equal_pairs
from jaxrep.spec import spec

Items = tuple[np.ndarray, np.ndarray]
"""Embeddings float32 [N,D] of images or captions, and their ids [N]. Items with equal ids are the same answer."""
Direction = tuple[str, np.ndarray, np.ndarray, IndexPairs]
"""Name, such as image_to_text, queries float32 [Q,D], candidates float32 [G,D], and positive pairs."""


@spec
class CaptionedEval(Eval):
    """Measure a model on images with captions."""

    data: Source
    """Images with one caption or several captions each."""
    image: TowerColumn = "image"
    """Column of the images, and the model's tower for them. ``<image>_id`` is their id."""
    text: TowerColumn = "text"
    """Column of the captions, and the model's tower for them. ``<text>_id`` is their id."""

    def embed_captioned(self, model: Model, columns: tuple[str, ...] = ()) -> tuple[Items, list[tuple[str, ...]], dict]:
        """Return the images, the captions per image, and more columns.

        Without a column ``<image>_id`` each image has an id of its own.
        """
        image_id = f"{self.image}_id"
        id_columns = [image_id] if image_id in self.data.fields() else []
        names = [self.text, *id_columns, *columns]
        embeddings, rows = embed_rows(model, self.data.open(), self.image, columns=names, unit=True)
        ids = np.asarray(rows[image_id]) if id_columns else np.arange(len(embeddings))
        captions = [as_captions(value) for value in rows[self.text]]
        return (embeddings, ids), captions, {name: rows[name] for name in columns}

    def directions(self, model: Model) -> Iterator[Direction]:
        """Yield image-to-text retrieval, then text-to-image retrieval.

        Without a column ``<text>_id`` equal strings are the same text.
        """
        text_id = f"{self.text}_id"
        (images, image_ids), captions, columns = self.embed_captioned(
            model, (text_id,) if text_id in self.data.fields() else ()
        )
        strings = [caption for group in captions for caption in group]
        text_ids = np.concatenate([np.atleast_1d(value) for value in columns[text_id]]) if columns else ranked(strings)
        texts = embed_texts(model, strings, self.text)
        pairs = np.stack([np.repeat(image_ids, [len(group) for group in captions]), text_ids], 1)
        yield f"{self.image}_to_{self.text}", images, texts, positive_pairs(image_ids, text_ids, pairs)
        yield f"{self.text}_to_{self.image}", texts, images, positive_pairs(text_ids, image_ids, pairs[:, ::-1])


def positive_pairs(query_ids: np.ndarray, candidate_ids: np.ndarray, pairs: np.ndarray) -> IndexPairs:
    """Return the indices (query, candidate) of all pairs whose (query id, candidate id) is among ``pairs`` [M,2]."""
    pairs = np.unique(pairs, axis=0)
    query, pair = equal_pairs(query_ids, pairs[:, 0])
    at, candidate = equal_pairs(pairs[pair, 1], candidate_ids)
    return query[at], candidate
