"""A transformer that reads the tokens of an encoder and predicts those that it did not read.

He et al. 2022, Masked autoencoders are scalable vision learners, arXiv:2111.06377, section 3.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import Depth, EncoderInputs, EncoderOutput, Width
from jaxrep.encoders.layers import Dense, compute_dtype
from jaxrep.encoders.positions import sincos_positions, sine_problems
from jaxrep.encoders.transformer import Transformer, TransformerModule
from jaxrep.spec import Count, NonNegative, spec


@spec
class TokenDecoder(Transformer):
    """Decode tokens [B,n,C] of some places of a grid to features of all its N places, [B,N,D].

    Tokens are projected to the width D. They lie at ``inputs.keep``, mask tokens at the other places of
    ``inputs.grid``; without ``keep`` they are those of all places. Each place has a fixed position, sines and cosines.
    Without a mask token the decoder reads the tokens alone, at their places, and returns features of these, [B,n,D].
    """

    rank: ClassVar[int] = 3

    width: Width = 512
    """Width D of tokens and features."""
    depth: Depth = 8
    """Number of blocks."""
    heads: Count = 16
    """Number of attention heads; it divides the width."""
    norm_epsilon: NonNegative = 1e-6
    """Added to the variance under the root of every norm."""
    mask_token: bool = True
    """Whether a learned token stands for places without a token; else these are left out."""
    project: bool = True
    """Whether a linear map gives tokens the width D; else they have it."""
    sine_widths: tuple[Count, ...] = ()
    """Channels of the sines and cosines of each axis of the grid; empty: an equal share of the width each."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from sine_problems(self.sine_widths, self.width)

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "TokenDecoderModule":
        """Return the module. ``inputs``: the tokens; the last axis of their shape is the width C.

        Raises ValueError: they are not projected and have another width than the decoder.
        """
        if not self.project and inputs.shape[-1] != self.width:
            raise ValueError(
                f"tokens are {inputs.shape[-1]} wide and the decoder {self.width}: give it their width, or project them"
            )
        return TokenDecoderModule(self, rngs, inputs.shape[-1])


class TokenDecoderModule(TransformerModule):
    """Map tokens float [B,n,C] to features of all places, or of theirs, in the type of the blocks."""

    spec: TokenDecoder

    def __init__(self, spec: TokenDecoder, rngs: nnx.Rngs, inputs: int):
        super().__init__(spec, rngs, pool="mean")
        self.project = Dense(rngs, (inputs,), (spec.width,)) if spec.project else None

    def embed(self, x: Array) -> tuple[Array, Array, None]:
        """Return tokens h [B,n,D] of this width, positions [n,D] of tokens in a row, and None: all are real."""
        return self._projected(x), self._sines((x.shape[1],)), None

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        h = self._projected(inputs.x)
        positions = self._sines(inputs.grid or (h.shape[1],))
        if inputs.keep is not None:
            h = self._placed(h, inputs.keep, math.prod(inputs.grid or (h.shape[1],)))
        if h.shape[1] != len(positions):
            raise ValueError(f"{h.shape[1]} tokens do not lie on a grid of {' x '.join(map(str, inputs.grid or ()))}")
        keep = None if self.spec.mask_token else inputs.keep
        return self.encode(h, positions, dataclasses.replace(inputs, keep=keep))

    def _projected(self, x: Array) -> Array:
        x = x.astype(compute_dtype(self.spec.dtype))
        return x if self.project is None else self.project(x)

    def _sines(self, grid: tuple[int, ...]) -> Array:
        spec = self.spec
        return jnp.asarray(sincos_positions(grid, spec.width, endpoint=False, widths=spec.sine_widths))

    def _placed(self, h: Array, kept: Array, count: int) -> Array:
        """Return tokens of all places [B,count,D]: h [B,n,D] at ``kept`` [B,n], and mask tokens or 0 at the others."""
        other = jnp.zeros(()) if self.mask_token is None else self.mask_token[...]
        blank = jnp.broadcast_to(other.astype(h.dtype), (len(h), count, h.shape[2]))
        return jax.vmap(lambda row, at, tokens: row.at[at].set(tokens))(blank, kept, h)
