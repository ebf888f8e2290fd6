"""CLIP's text transformer (Radford et al. 2021, arXiv:2103.00020, section 2.4), causal or bidirectional."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import EncoderInputs, EncoderOutput, preset
from jaxrep.encoders.text.text_encoder import TextEncoder, TextEncoderModule
from jaxrep.spec import Natural, spec


@spec
class TextTransformer(TextEncoder):
    """Encode token ids by a transformer. Presets take fields to change: ``TextTransformer.clip_b(pool="mean")``."""

    causal: bool = True
    """Whether a token attends to itself and earlier tokens only, or to all."""
    pool: Literal["eos", "cls", "mean", "attention"] = "eos"
    """The last real token, the first token, the mean of the real tokens, or a learned query that attends to them."""
    end: Natural | Literal["zeros", "highest", "never"] = "zeros"
    """The last real token of a text, if the batch does not say: the last id other than 0 (zeros), the highest id
    (CLIP's released code) or the first of this id. never: padding is read as text, whatever the batch says (SigLIP)."""

    clip_b = preset("the text tower of CLIP's ViT-B models", width=512, depth=12, heads=8, activation="quick_gelu")
    clip_l = preset("the text tower of CLIP's ViT-L models", width=768, depth=12, heads=12, activation="quick_gelu")

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "TextTransformerModule":
        return TextTransformerModule(self, rngs, inputs)


class TextTransformerModule(TextEncoderModule):
    """Map token ids int32 [B,L], padded at the end, to features."""

    spec: TextTransformer

    def __init__(self, spec: TextTransformer, rngs: nnx.Rngs, inputs: Field):
        super().__init__(spec, rngs, inputs, position_std=0.01, pool=spec.pool, causal=spec.causal)
        self.add_marks(rngs)

    def embed(self, x: Array, *, in_loop: bool = False) -> tuple[Array, Array, Array]:
        """Return tokens h [B,L,D], positions [L,D], and which tokens are real: those up to the ``end``.

        So an id of 0 inside a text counts ("!" in CLIP's vocabulary), and with CLIP's padding of zeros the last real
        token is the end-of-text token. Give the encoder ``valid`` if padding has another id.
        """
        positions = self.placed(x.shape[1])
        end, place = self.spec.end, jnp.arange(x.shape[1])
        if end == "zeros":
            last = jnp.where(x != 0, place, -1).max(axis=1, keepdims=True)
        elif end == "never":
            last = jnp.full((x.shape[0], 1), x.shape[1])
        else:  # argmax takes the first of equal ones
            last = jnp.argmax(x if end == "highest" else x == end, axis=1, keepdims=True)
        return self.look_up(x, in_loop), positions, place <= last

    def encode(self, h: Array, positions: Array, inputs: EncoderInputs) -> EncoderOutput:
        """Encode as every transformer does; with ``end="never"`` all tokens are real."""
        inputs = dataclasses.replace(inputs, valid=None) if self.spec.end == "never" else inputs
        return super().encode(h, positions, inputs)
