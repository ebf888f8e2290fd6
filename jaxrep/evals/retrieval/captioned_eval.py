"""Pictures with captions as evaluations see them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxrep.data.source import Source
from jaxrep.evals.base import Eval, missing_columns
from jaxrep.evals.embed import embed_images, embed_texts
from jaxrep.model import Model
from jaxrep.spec import spec


class Items(NamedTuple):
    """One side of the pairs."""

    embeddings: np.ndarray  # float32 [N,D]
    ids: np.ndarray  # [N]: items of equal ids are the same answer


@spec
class CaptionedEval(Eval):
    """Abstract: a measure of pictures and their captions."""

    data: Source
    """Pictures with one caption or a tuple of them."""
    image: str = "image"
    """Field of the pictures, and the model's tower for them; ``<image>_id`` is their id."""
    text: str = "text"
    """Field of the captions, and the model's tower for them; ``<text>_id`` is their id."""
    name: str
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.image, self.text

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from missing_columns(self.data, self.image, self.text)

    def pictures(self, model: Model, columns: tuple[str, ...] = ()) -> tuple[Items, list[tuple[str, ...]], dict]:
        """The pictures, each of an id of its own where the data have none; the captions of each; and more columns."""
        image_id = f"{self.image}_id"
        known = [image_id] if image_id in self.data.fields() else []
        embeddings, found = embed_images(model, self.data.open(), self.image, [self.text, *known, *columns])
        ids = np.asarray(found[image_id]) if known else np.arange(len(embeddings))
        captions = [(text,) if isinstance(text, str) else tuple(text) for text in found[self.text]]
        return Items(embeddings, ids), captions, {name: found[name] for name in columns}

    def pairs(self, model: Model) -> tuple[Items, Items, np.ndarray]:
        """Pictures, captions, and the ids [M,2] of every picture with its caption."""
        text_id = f"{self.text}_id"
        images, groups, columns = self.pictures(model, (text_id,) if text_id in self.data.fields() else ())
        texts = [one for group in groups for one in group]
        if columns:
            text_ids = np.concatenate([np.atleast_1d(value) for value in columns[text_id]])
        else:
            text_ids = np.unique(texts, return_inverse=True)[1]
        pairs = np.stack([np.repeat(images.ids, [len(group) for group in groups]), text_ids], 1)
        return images, Items(embed_texts(model, texts, self.text), text_ids), pairs
