"""Methods of one encoder: with its projection, as in a public checkpoint of one modality, or for pairs of texts."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields, unfold
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.transformer import Transformer
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_and_project, encode_field, input_field
from jaxrep.methods.heads import Head, Identity, LogitScale
from jaxrep.spec import spec


@spec
class SingleEncoder(Method):
    """Encode one field, without any part of a loss.

    Emits per row ``<name>`` [B,D] (raw), ``<name>/pooled`` (before the projection) and ``<name>/tokens``.
    """

    name: str = "image"
    """Name of the field."""
    encoder: Encoder
    """The encoder of the field."""
    head: Head = Identity()
    """The projection of its features."""

    def problems(self) -> Iterator[str]:
        if not self.name.isidentifier():
            yield f"name is '{self.name}': expected the name of a field, such as image"

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "SingleEncoder", self.name)
        read = input_field(inputs, self.name, self.encoder)
        return {self.name: (self.encoder, read), f"{self.name}_head": (self.head, self.encoder.features)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        return encode_and_project(self, self.spec.name, self.spec.encoder, batch, ctx)


@spec
class SentenceEncoder(Method):
    """Encode ``text`` [B,L] by one tower, or the V texts of a row, [B,V,L], of which the first two are a pair.

    Emits per row ``text`` [B,D] or [B,V,D] and ``text/layers`` [...,depth,D], the pooled features after each block
    (those after the last are ``text``); for a pair also ``a`` and ``b`` [B,D], ``a/layers`` and ``b/layers``. Emits
    ``scale`` per step.
    """

    text: Transformer
    """The encoder of texts."""
    scale: LogitScale = LogitScale(init=20.0, trainable=False)
    """The inverse temperature."""

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "SentenceEncoder", "text")
        return {"text": (self.text, input_field(inputs, "text", self.text)), "scale": (self.scale, None)}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        text = self.spec.text
        blocks = tuple(range(text.depth))
        encoded, views = encode_field(self, "text", text, batch, ctx, intermediates=blocks)
        layers = jnp.stack([encoded.intermediates[block] for block in blocks], axis=1)
        out: Outputs = {"text": unfold(encoded.pooled, views), "text/layers": unfold(layers, views)}
        if views is not None and views > 1:
            sides = ((side, name, x[:, i]) for i, side in enumerate("ab") for name, x in out.items())
            out |= {name.replace("text", side): x for side, name, x in sides}
        return out

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return {"scale": self.scale()}
