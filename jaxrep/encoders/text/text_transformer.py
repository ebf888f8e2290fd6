"""Text transformer: CLIP's (Radford et al. 2021, arXiv:2103.00020, section 2.4), causal or bidirectional."""

import dataclasses
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import INFERENCE, Array, Field, StepContext
from jaxrep.encoders.base import EncoderOutput
from jaxrep.encoders.layers import normal
from jaxrep.encoders.transformer import Transformer
from jaxrep.encoders.transformer_module import TransformerModule
from jaxrep.spec import spec


@spec
class TextTransformer(Transformer):
    """Text transformer. Presets take fields to change: ``TextTransformer.clip_b(pool="mean")``."""

    rank: ClassVar[int] = 2

    causal: bool = True
    """A token attends to those before it only; otherwise to all."""
    pool: Literal["eos", "cls", "mean", "attention"] = "eos"
    """The last real token, the first token, the mean of the real ones, or a learned query that attends to them."""
    end: int | Literal["zeros", "highest", "never"] = "zeros"
    """Which token is a text's last real one, where the batch does not say: the last id that is not 0, the highest id
    (CLIP's released code) or the first of this id; never: padding is read as text, whatever the batch says (SigLIP)."""

    @classmethod
    def clip_b(cls, **changes: Any) -> Self:
        """The text tower of CLIP's ViT-B models."""
        return dataclasses.replace(cls(width=512, depth=12, heads=8, activation="quick_gelu"), **changes)

    @classmethod
    def clip_l(cls, **changes: Any) -> Self:
        """The text tower of CLIP's ViT-L models."""
        return dataclasses.replace(cls(width=768, depth=12, heads=12, activation="quick_gelu"), **changes)

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "TextTransformerModule":
        return TextTransformerModule(self, rngs, inputs)


class TextTransformerModule(TransformerModule):
    """Token ids int32 [B,L], padded at the end -> features."""

    def __init__(self, spec: TextTransformer, rngs: nnx.Rngs, inputs: Field):
        if len(inputs.shape) != 1 or inputs.classes is None:
            raise ValueError(
                "a text transformer reads token ids of shape (L,) with a known number of classes (the vocabulary), "
                f"and its input has shape {inputs.shape} and classes {inputs.classes}"
            )
        super().__init__(spec, rngs, pool=spec.pool, causal=spec.causal)
        self.end = spec.end
        self.embedding = normal(rngs, (inputs.classes, spec.width), 0.02)
        self.positions = normal(rngs, (inputs.shape[0], spec.width), 0.01)

    def embed(self, x: Array) -> tuple[Array, Array, Array]:
        """Ids [B,L] -> tokens h [B,L,D], positions [L,D], and which are real: all up to the one that ``end`` names.

        So an id of 0 inside a text counts ("!" in CLIP's vocabulary), and with CLIP's padding of zeros the last real
        token is its end-of-text token. Give the encoder ``valid`` where padding has another id.
        """
        length = self.positions.shape[0]
        if x.shape[1] > length:
            raise ValueError(f"texts of {x.shape[1]} tokens reach an encoder that was built for {length}")
        place = jnp.arange(x.shape[1])
        if self.end == "zeros":
            last = jnp.where(x != 0, place, -1).max(axis=1, keepdims=True)
        elif self.end == "never":
            last = jnp.full((x.shape[0], 1), x.shape[1])
        else:  # argmax takes the first of equal ones
            last = jnp.argmax(x if self.end == "highest" else x == self.end, axis=1, keepdims=True)
        return self.embedding[...][x], self.positions[: x.shape[1]], place <= last

    def encode(
        self,
        h: Array,
        positions: Array,
        *,
        valid: Array | None = None,
        masked: Array | None = None,
        intermediates: tuple[int, ...] = (),
        ctx: StepContext = INFERENCE,
    ) -> EncoderOutput:
        """As every transformer; where a text never ends, all tokens are real."""
        valid = None if self.end == "never" else valid
        return super().encode(h, positions, valid=valid, masked=masked, intermediates=intermediates, ctx=ctx)
