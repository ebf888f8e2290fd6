"""A dual encoder of images and captions, and of regions (by learned queries) and their descriptions.

Halbe et al. 2024, GRAIN, arXiv:2412.04429.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder, EncoderInputs
from jaxrep.encoders.decoders.query_decoder import QueryDecoder
from jaxrep.losses.boxes import match_boxes
from jaxrep.methods.base import Method, name_errors
from jaxrep.methods.encode import batch_stats_output, encode_and_project, merge_outputs
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.spec import Count, NonNegative, spec

TEXTS = ("text", "region")
BOXES = ("boxes", "region/present")


@spec
class GroundedDualEncoder(Method):
    """Encode images and texts by two towers, with a decoder between the image's tokens and the joint space.

    Emits per row ``image`` [B,D], ``image/pooled`` (before the projection), ``image/tokens``, ``query`` [B,Q,D] and
    ``query/boxes`` [B,Q,4]; ``text`` [B,D] and ``region`` [B,R,D], with ``/pooled`` and ``/tokens``. With the fields
    ``boxes`` [B,R,4] and ``region/present`` [B,R] it emits ``matched`` [B,R,D] and ``matched/boxes`` [B,R,4]: the query
    matched with each region. Emits ``scale`` per step.
    """

    image: Encoder
    """The encoder of images; the decoder reads its tokens."""
    text: Encoder
    """The encoder of captions and descriptions."""
    decoder: QueryDecoder = QueryDecoder()
    """The decoder that detects regions among the tokens."""
    dim: Count = 512
    """Width of the joint space."""
    scale: LogitScale = LogitScale()
    """The learned inverse temperature."""
    l1_cost: NonNegative = 5.0
    """Factor of the L1 distance in the cost of a match."""
    giou_cost: NonNegative = 2.0
    """Factor of the generalized IoU in the cost of a match."""

    image_head: ClassVar[Any]  # parts of the built method
    query_head: ClassVar[Any]

    def problems(self) -> Iterator[str]:
        if self.l1_cost + self.giou_cost == 0:
            yield "l1_cost and giou_cost are 0: one has to be above"

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

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        texts = (encode_and_project(self, x, self.spec.text, batch, ctx, tower="text") for x in TEXTS if x in batch)
        return merge_outputs(*texts, self.encode_regions(batch, ctx) if "image" in batch else {})

    def encode_regions(self, batch: Batch, ctx: StepContext) -> Outputs:
        """Return the outputs of the images, and the query matched with each region."""
        with name_errors("image"):
            encoded = self.image(EncoderInputs(batch["image"], ctx=ctx.at("image")))
        if encoded.tokens is None:
            raise ValueError("the image encoder returns one vector per image, and the decoder reads tokens")
        with jax.named_scope("decoder"):
            decoded = self.decoder(encoded.tokens, ctx=ctx.at("decoder"))
        out: Outputs = {
            "image": self.image_head(decoded.image),
            "image/pooled": decoded.image,
            "image/tokens": encoded.tokens,
            "query": self.query_head(decoded.regions),
            "query/boxes": decoded.boxes,
        }
        if all(name in batch for name in BOXES):
            boxes = (decoded.boxes, *(batch[name] for name in BOXES))
            indices = match_boxes(*boxes, l1_cost=self.spec.l1_cost, giou_cost=self.spec.giou_cost)[..., None]
            out["matched"] = jnp.take_along_axis(out["query"], indices, axis=1)
            out["matched/boxes"] = jnp.take_along_axis(decoded.boxes, indices, axis=1)
        return out | batch_stats_output("image", encoded)

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return {"scale": self.scale()}
