"""One encoder of two views of an image, and a projector."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields
from jaxrep.encoders.base import Encoder, EncoderInputs
from jaxrep.methods.base import BATCH_STATS, Method, name_errors
from jaxrep.methods.self_supervised.projector import Projector
from jaxrep.spec import spec

VIEWS = ("a", "b", "mixed")
"""Fields of ``Siamese``; the last is there if inputs are mixed."""


@spec
class Siamese(Method):
    """Encode the fields ``a`` and ``b``, two views of an image, and ``mixed`` if the batch has it.

    Emits per row ``<field>/pooled`` of each, and ``image``, the features of the image (in training of its first view).
    Emits across the batch ``<field>`` [B,D], projected. The projector reads each field separately.
    """

    image: Encoder
    """The encoder of images."""
    projector: Projector
    """The head between features and loss."""

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "Siamese", "image", *VIEWS[:2])
        read = replace(inputs["a"], dtype=inputs["image"].dtype)
        return {"image": (self.image, read), "projector": (self.projector, self.image.features)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        encoded = {}
        for name in [name for name in VIEWS if name in batch] or ["image"]:
            with name_errors(name):
                encoded[name] = self.image(EncoderInputs(batch[name], ctx=ctx.at(name)))
        out: Outputs = {f"{name}/pooled": output.pooled for name, output in encoded.items()}
        out["image"] = next(iter(encoded.values())).pooled
        stats = [output.batch_stats for output in encoded.values() if output.batch_stats is not None]
        if stats:  # each view moves the same running statistics equally: their mean moves by the mean of the views
            out[BATCH_STATS] = {"image": jax.tree.map(lambda *values: sum(values) / len(values), *stats)}
        return out

    def across_batch(self, outputs: Outputs, batch: Batch, ctx: StepContext) -> Outputs:
        return {name: self.projector(outputs[f"{name}/pooled"]) for name in VIEWS if f"{name}/pooled" in outputs}
