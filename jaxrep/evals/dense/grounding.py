"""Detection and recognition of image regions (the tasks of DETR, arXiv:2005.12872, and of region classification)."""

from typing import Annotated

import jax
import numpy as np

from jaxrep.data.source import Source
from jaxrep.errors import JaxrepError
from jaxrep.evals.base import Eval, Model
from jaxrep.evals.embed import embed_texts, output_blocks, unique_texts
from jaxrep.losses.boxes import iou, match_boxes
from jaxrep.metrics.ranking import best_ranks, require_finite, unit_rows
from jaxrep.reads import Output, Reads
from jaxrep.spec import Count, Range, spec

COLUMNS = ("region", "region/present", "boxes")


@spec
class Grounding(Eval):
    """Measure boxes and names of regions. Each true region has the query whose box DETR's costs match with it.

    Metrics:
        ``iou``: mean intersection over union of the two boxes. ``iou<percent>``: share of the regions with at least
        this intersection over union. ``r<k>``: share of the regions whose name is among the k nearest to the query,
        of all names in the data.
    """

    data: Source
    """Images with the columns ``region``, ``region/present`` and ``boxes``."""
    image: Annotated[str, Reads(columns=("{}", *COLUMNS))] = "image"
    """Column of the images."""
    query: Annotated[str, Reads(outputs=("{}", "{}/boxes"))] = "query"
    """The model output of region embeddings, [B,Q,D]. ``<query>/boxes`` are the boxes."""
    text: Output = "text"
    """The model's tower for the names."""
    ks: tuple[Count, ...] = (1, 5)
    """Numbers k of nearest names."""
    percents: tuple[Annotated[int, Range(1, 100)], ...] = (50,)
    """Thresholds of the intersection over union, in percent."""
    name: str = "grounding"

    def run(self, model: Model) -> dict[str, float]:
        queries, overlaps, region_names = self.regions(model)
        names, answers = unique_texts(region_names)
        name_ranks = best_ranks(queries, embed_texts(model, names, self.text), (np.arange(len(queries)), answers))
        shares = {f"iou{percent}": overlaps >= percent / 100 for percent in self.percents}
        return self.named({"iou": overlaps} | shares | {f"r{k}": name_ranks <= k for k in self.ks})

    def regions(self, model: Model) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return the query embedding [N,D], the intersection over union [N] and the name of each present region."""
        want, blocks = (self.query, f"{self.query}/boxes"), []
        for outputs, rows in output_blocks(model, self.data.open(), self.image, want, COLUMNS, unit=False):
            present, boxes = (np.array(rows[name]) for name in ("region/present", "boxes"))
            which, overlaps = jax.device_get(_match(outputs[f"{self.query}/boxes"], boxes, present))
            queries = np.take_along_axis(outputs[self.query], which[..., None], axis=1)[present]
            blocks.append((queries, overlaps[present], np.array(rows["region"], object)[present]))
        queries, overlaps, names = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        if not len(queries):
            raise JaxrepError(f"{self.name}: no example has a region")
        require_finite(queries, lambda i: f"the query that is matched with region {i}")
        return unit_rows(queries), overlaps, list(names)


@jax.jit
def _match(predicted: jax.Array, boxes: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the query of each region, and the intersection over union of their boxes, both [B,R]."""
    which = match_boxes(predicted, boxes, present)
    return which, iou(jax.numpy.take_along_axis(predicted, which[..., None], axis=1), boxes)
