"""Whether regions are found and recognized (the tasks of DETR, arXiv:2005.12872, and of region classification)."""

from collections.abc import Iterator

import jax
import numpy as np

from jaxrep.data.source import Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, missing_columns
from jaxrep.evals.classification.zero_shot import distinct
from jaxrep.evals.embed import embed_texts, encoded
from jaxrep.losses.boxes import iou, match_boxes
from jaxrep.metrics.ranking import ranks, require_finite, unit_rows
from jaxrep.metrics.sample import Sample
from jaxrep.model import Model
from jaxrep.spec import spec

FIELDS = ("region", "region/present", "boxes")


@spec
class Grounding(Eval):
    """Each true region has the query whose box is matched with it, at DETR's costs.

    ``iou``: the mean intersection over union of both boxes; ``iou<percent>``: the share of regions where it is at least
    that; ``r<k>``: the share of regions whose name is among the k nearest to the query, of all names in the data.
    """

    data: Source
    """Pictures with ``region``, ``region/present`` and ``boxes``."""
    image: str = "image"
    """Field of the images."""
    query: str = "query"
    """The method's embeddings of regions, [B,Q,D]; ``<query>/boxes`` are theirs."""
    text: str = "text"
    """The model's tower for the names."""
    ks: tuple[int, ...] = (1, 5)
    """How many of the nearest names are looked at."""
    percents: tuple[int, ...] = (50,)
    """Thresholds of the intersection over union, in percent."""
    name: str = "grounding"
    """First part of the metrics' names."""

    @property
    def reads(self) -> tuple[str, ...]:
        return self.query, f"{self.query}/boxes", self.text

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not self.ks or min(self.ks) < 1:
            yield f"ks counts candidates, from 1, and is not {self.ks}"
        if any(not 0 < percent <= 100 for percent in self.percents):
            yield f"percents are from 1 to 100, and not {self.percents}"
        yield from missing_columns(self.data, self.image, *FIELDS)

    def run(self, model: Model) -> dict[str, float]:
        found, overlaps, names = self.regions(model)
        every, answers = distinct(names)
        rank = ranks(found, embed_texts(model, every, self.text), (np.arange(len(found)), answers))
        shares = {f"{self.name}/iou{percent}": Sample(overlaps >= percent / 100) for percent in self.percents}
        recalls = {f"{self.name}/r{k}": Sample(rank <= k) for k in self.ks}
        return {f"{self.name}/iou": Sample(overlaps), **shares, **recalls}

    def regions(self, model: Model) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Of every region that is present: the query's embedding [N,D], the overlap of the boxes [N], and its name."""
        want, parts = (self.query, f"{self.query}/boxes"), []
        for out, rows in encoded(model, self.data.open(), self.image, want, FIELDS, unit=False):
            here, boxes = (np.array(rows[name]) for name in ("region/present", "boxes"))
            which, overlaps = jax.device_get(_matched(out[f"{self.query}/boxes"], boxes, here))
            queries = np.take_along_axis(out[self.query], which[..., None], axis=1)[here]
            parts.append((queries, overlaps[here], np.array(rows["region"], object)[here]))
        queries, overlaps, names = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not len(queries):
            raise JaxrepError(f"{self.name}: no example has a region")
        require_finite(queries, lambda i: f"the query that is matched with region {i}")
        return unit_rows(queries), overlaps, list(names)


@jax.jit
def _matched(predicted: jax.Array, boxes: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The query of each region, and the overlap of their boxes, [B,R] both."""
    which = match_boxes(predicted, boxes, present)
    return which, iou(jax.numpy.take_along_axis(predicted, which[..., None], axis=1), boxes)
