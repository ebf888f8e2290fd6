"""Image-text retrieval on held-out pairs, in both directions."""

from jaxrep.data.sources.karpathy import Karpathy
from jaxrep.evals.base import Model
from jaxrep.evals.retrieval.captioned_eval import CaptionedEval
from jaxrep.metrics.ranking import average_precision, positive_ranks
from jaxrep.metrics.sample import Sample
from jaxrep.spec import Count, spec


@spec
class Retrieval(CaptionedEval):
    """Measure recall and mean average precision at k, and the median rank, among all candidates of the data.

    An image may have several texts: as a query it is correct with any of them. Images with equal ``image_id`` are the
    same answer, and so are texts with equal ``text_id``: a positive of a query is everything that is paired with it
    anywhere in the data, in any copy. Without these columns each image is a separate one, and equal strings are equal
    texts.

    Metrics:
        ``<direction>/r<k>``: share of the queries with a positive among the first k candidates. ``<direction>/map<k>``:
        mean of ``average_precision`` (at 1 it equals recall). ``<direction>/median_rank``: median rank of the first
        positive, from 1. Directions: ``image_to_text``, ``text_to_image``.
    """

    ks: tuple[Count, ...] = (1, 5, 10)
    """Numbers k of first candidates."""
    name: str = "retrieval"

    @classmethod
    def coco(cls, folder: str, *, image_size: int = 224, split: str = "test") -> "Retrieval":
        """Declare COCO in Karpathy's split (test: 5,000 images with five captions each).

        ``folder`` holds ``dataset_coco.json`` and COCO's folders ``val2014`` and ``train2014``.
        """
        return cls(data=_karpathy(folder, "dataset_coco.json", "", image_size, split), name="coco")

    @classmethod
    def flickr30k(cls, folder: str, *, image_size: int = 224, split: str = "test") -> "Retrieval":
        """Declare Flickr30k in Karpathy's split (test: 1,000 images with five captions each).

        ``folder`` holds ``dataset_flickr30k.json`` and the image folder ``flickr30k-images``.
        """
        data = _karpathy(folder, "dataset_flickr30k.json", "flickr30k-images", image_size, split)
        return cls(data=data, name="flickr30k")

    def run(self, model: Model) -> dict[str, float]:
        metrics = {}
        for direction, queries, gallery, positives in self.directions(model):
            ranks = positive_ranks(queries, gallery, positives, max(self.ks))
            metrics |= {f"{direction}/r{k}": ranks[:, 0] <= k for k in self.ks}
            metrics |= {f"{direction}/map{k}": average_precision(ranks, k) for k in self.ks if k > 1}
            metrics[f"{direction}/median_rank"] = Sample(ranks[:, 0], "median")
        return self.named(metrics)


def _karpathy(folder: str, listing: str, images: str, image_size: int, split: str) -> Karpathy:
    root = folder.rstrip("/")
    return Karpathy(path=f"{root}/{listing}", images=f"{root}/{images}", image_size=image_size, split=split)
