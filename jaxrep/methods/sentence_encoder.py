"""The sentence encoder: one text tower for both sides of a pair, with features after every block."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields, unfold
from jaxrep.encoders.transformer import Transformer
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_field
from jaxrep.methods.heads import LogitScale
from jaxrep.spec import spec


@spec
class SentenceEncoder(Method):
    """Encode ``text`` [B,L], or the V texts of a row, [B,V,L], of which the first two are a pair.

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
        one = replace(inputs["text"], shape=inputs["text"].shape[-1:])
        return {"text": (self.text, one), "scale": (self.scale, None)}

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
