"""Sentences: one text tower for both sides of a pair, read after every block."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxrep.batch import Batch, Field, Outputs, StepContext, require_fields, unfold
from jaxrep.encoders.transformer import Transformer
from jaxrep.methods.base import Method
from jaxrep.methods.encode import encode_field
from jaxrep.methods.heads import LogitScale
from jaxrep.spec import spec


@spec
class SentenceEncoder(Method):
    """Encodes ``text`` [B,L], or the V texts of a row, [B,V,L], of which the first two are a pair.

    Emits, a row, ``text`` [B,D] or [B,V,D] and ``text/layers`` [...,depth,D], the pooled features after each block (the
    last one's are ``text``); of a pair also ``a`` and ``b`` [B,D], ``a/layers`` and ``b/layers``; shared, ``scale``.
    """

    text: Transformer
    """The encoder of texts."""
    scale: LogitScale = LogitScale(init=20.0, learned=False)
    """The inverse temperature."""

    depth: ClassVar[int]  # of the built method: the number of blocks

    def parts(self, inputs: Mapping[str, Field]) -> dict[str, tuple[Any, Any]]:
        require_fields(inputs, "SentenceEncoder", "text")
        one = replace(inputs["text"], shape=inputs["text"].shape[-1:])
        return {"text": (self.text, one), "scale": (self.scale, None)}

    def static(self) -> dict[str, Any]:
        return {"depth": self.text.depth}

    def per_example(self, batch: Batch, ctx: StepContext) -> Outputs:
        encoded, views = encode_field(self, "text", 2, batch, ctx, intermediates=tuple(range(self.depth)))
        layers = jnp.stack([encoded.intermediates[layer] for layer in range(self.depth)], axis=1)
        out: Outputs = {"text": unfold(encoded.pooled, views), "text/layers": unfold(layers, views)}
        if views is not None and views > 1:
            pair = {side: {name: x[:, i] for name, x in out.items()} for i, side in enumerate("ab")}
            out |= {name.replace("text", side): x for side, of in pair.items() for name, x in of.items()}
        return out

    def per_step(self, tables: Mapping[str, Any], ctx: StepContext) -> Outputs:
        return {"scale": self.scale()}
