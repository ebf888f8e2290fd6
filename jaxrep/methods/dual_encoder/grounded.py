"""Grounded: images and their regions, found by learned queries, beside captions and descriptions of regions (Halbe et
al. 2024, GRAIN, arXiv:2412.04429)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.decoders.query_decoder import QueryDecoder
from jaxrep.losses.boxes import match_boxes
from jaxrep.methods.base import Method, name_errors
from jaxrep.methods.encode import batch_stats_output, encode_and_project, merge_outputs
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.spec import spec

TEXTS = ("text", "region")
BOXES = ("boxes", "region/present")


@spec
class GroundedDualEncoder(Method):
    """Two towers, and a decoder between the image's tokens and the joint space.

    Emits, a row, ``image`` [B,D], ``image/pooled`` (before the projection), ``image/tokens``, ``query`` [B,Q,D] and
    ``query/boxes`` [B,Q,4]; ``text`` [B,D] and ``region`` [B,R,D], with ``/pooled`` and ``/tokens``. Where ``boxes``
    [B,R,4] and ``region/present`` [B,R] are given, ``matched`` [B,R,D] and ``matched/boxes`` [B,R,4]: the query that is
    matched with each region. Shared, ``scale``.
    """

    image: Encoder
    """The encoder of images, whose tokens are read."""
    text: Encoder
    """The encoder of captions and of descriptions."""
    decoder: QueryDecoder = QueryDecoder()
    """What finds regions among the tokens."""
    dim: int = 512
    """Width of the joint space."""
    scale: LogitScale = LogitScale()
    """The learned inverse temperature."""
    l1_cost: float = 5.0
    """Factor of the L1 distance in what a match costs."""
    giou_cost: float = 2.0
    """Factor of the generalized IoU in what a match costs."""

    text_rank: ClassVar[int]  # of the built method, as what follows: the axes of a batch of texts
    costs: ClassVar[tuple[float, float]]
    image_head: ClassVar[Any]
    query_head: ClassVar[Any]

    def problems(self) -> Iterator[str]:
        if self.dim < 1:
            yield f"dim is {self.dim}: a width, of at least 1"
        if min(self.l1_cost, self.giou_cost) < 0 or self.l1_cost + self.giou_cost == 0:
            yield f"costs are 0 or more and one is above, got l1_cost {self.l1_cost}, giou_cost {self.giou_cost}"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "GroundedDualEncoder", "image", "text")
        if "boxes" in inputs and (regions := inputs["boxes"].shape[0]) > self.decoder.queries:
            raise ValueError(f"{regions} regions need as many queries: decoder.queries is {self.decoder.queries}")
        return {
            "image": (self.image, inputs["image"]),
            "text": (self.text, inputs["text"]),
            "decoder": (self.decoder, self.image.features),
            "image_head": (Linear(features=self.dim), self.decoder.width),
            "query_head": (Linear(features=self.dim), self.decoder.width),
            "text_head": (Linear(features=self.dim), self.text.features),
            "scale": (self.scale, None),
        }

    def static(self) -> dict[str, Any]:
        costs = (self.l1_cost, self.giou_cost)
        return {"text_rank": self.text.rank, "costs": costs}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        there = [name for name in TEXTS if name in batch]
        texts = [encode_and_project(self, name, self.text_rank, batch, ctx, tower="text") for name in there]
        return merge_outputs(*texts, self.regions(batch, ctx)) if "image" in batch else merge_outputs(*texts)

    def regions(self, batch: Batch, ctx: StepContext) -> Outputs:
        """What is seen in the images, and which query is of which region."""
        with name_errors("image"):
            encoded = self.image(batch["image"], ctx=ctx.at("image"))
        if encoded.tokens is None:
            raise ValueError("the image encoder gives one vector an image, and the decoder reads tokens")
        with jax.named_scope("decoder"):
            found = self.decoder(encoded.tokens, ctx=ctx.at("decoder"))
        out: Outputs = {
            "image": self.image_head(found.whole),
            "image/pooled": found.whole,
            "image/tokens": encoded.tokens,
            "query": self.query_head(found.parts),
            "query/boxes": found.boxes,
        }
        if all(name in batch for name in BOXES):
            l1, giou = self.costs
            which = match_boxes(found.boxes, *(batch[name] for name in BOXES), l1_cost=l1, giou_cost=giou)[..., None]
            out["matched"] = jnp.take_along_axis(out["query"], which, axis=1)
            out["matched/boxes"] = jnp.take_along_axis(found.boxes, which, axis=1)
        return out | batch_stats_output("image", encoded)

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return {"scale": self.scale()}
