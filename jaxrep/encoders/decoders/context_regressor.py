"""A transformer that regresses the features of hidden tokens from those of shown ones.

Chen et al. 2022, Context autoencoder for self-supervised representation learning, arXiv:2202.03026, section 3.1, and
its released code (Atten4Vis/CAE: models/modeling_cae_helper.py).
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array, Field
from jaxrep.encoders.base import Depth, EncoderInputs, EncoderOutput
from jaxrep.encoders.blocks import build_attention, build_layer_scale, run_blocks, stack_blocks
from jaxrep.encoders.layers import attention_mask, compute_dtype, drop_branch, dropout, fold_keys, normal
from jaxrep.encoders.positions import sincos_positions
from jaxrep.encoders.remat import INPUT, in_parts, named
from jaxrep.encoders.transformer import Transformer
from jaxrep.spec import NonNegative, spec

UNREAD = ("norm", "first_norm", "embed_norm", "rotary", "local", "memory", "mask_token", "attention")
"""Fields of transformers that mean nothing for the blocks of a regressor."""


@spec
class ContextRegressor(Transformer):
    """Regress the features of the places of a grid that tokens [B,n,D] do not have, [B,N-n,D].

    The tokens lie at ``inputs.keep`` of ``inputs.grid``; without ``keep`` they have all places, and all are regressed.
    Each place has a query, a learned mask token at first. In every block queries attend to the tokens and to each
    other, with fixed positions added to what queries and keys are made of. Tokens stay as they are. As in the released
    code, the sum of a query and its attention is normalized, and the MLP is added to what it reads.
    """

    rank: ClassVar[int] = 3

    depth: Depth = 4
    """Number of blocks."""
    norm_epsilon: NonNegative = 1e-6
    """Added to the variance under the root of every norm."""

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in UNREAD:
            if getattr(self, name) != defaults[name]:
                yield f"{name} has no effect on the blocks of a regressor: leave it out"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "ContextRegressorModule":
        """Return the module. ``inputs``: the tokens. Raises ValueError: they have another width than the features."""
        if inputs.shape[-1] != self.width:
            raise ValueError(
                f"a regressor has the width of the features that it regresses, {inputs.shape[-1]}: got {self.width}"
            )
        return ContextRegressorModule(self, rngs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """Hold what the blocks read besides the queries."""

    tokens: Array  # [B,n,D]
    positions: Array  # [B,n+M,D], of tokens and queries
    mask: Array | None  # bool [B,1,1,n+M]: keys that are real
    keys: Array | None  # [B], of the dropout
    depth_keys: Array | None  # [B], of the stochastic depth


class RegressorBlock(nnx.Module):
    """Attend from queries to tokens and queries together, and apply an MLP."""

    def __init__(self, spec: ContextRegressor, rngs: nnx.Rngs):
        width, out_std = spec.width, (2 * spec.width * spec.depth) ** -0.5
        self.spec = spec
        self.norm_query = spec.build_norm(width)
        self.norm_key = spec.build_norm(width)
        self.norm_value = spec.build_norm(width)
        self.attention = build_attention(spec, rngs, out_std=out_std)
        self.norm2 = spec.build_norm(width)
        self.mlp = spec.build_mlp(rngs, down_std=out_std)
        self.scale1 = build_layer_scale(spec)
        self.scale2 = build_layer_scale(spec)

    def __call__(self, h: Array, read: Context, layer: Array | int) -> Array:
        """Map queries h [B,M,D] to [B,M,D]; ``layer`` is the number of this block in its stack."""
        spec, keys, depth_keys = self.spec, fold_keys(read.keys, layer), fold_keys(read.depth_keys, layer)
        rate = spec.stochastic_depth * layer / max(spec.depth - 1, 1)

        def add(h: Array, y: Array, scale: nnx.Param | None, site: int) -> Array:
            y = y if scale is None else y * scale[...].astype(y.dtype)
            y = dropout(y, spec.dropout, fold_keys(keys, site))
            return h + drop_branch(y, rate, fold_keys(depth_keys, site))

        h = named(h, INPUT)
        both = jnp.concatenate([read.tokens, h], axis=1)
        query = self.norm_query(h + read.positions[:, read.tokens.shape[1] :])
        key, value = self.norm_key(both + read.positions), self.norm_value(both)
        h = self.norm2(add(h, self.attention(query, key, read.mask, values=value), self.scale1, 0))
        return add(h, in_parts(self.mlp, spec.mlp_parts, named(h, "middle")), self.scale2, 1)


class ContextRegressorModule(nnx.Module):
    """Map tokens float [B,n,D] to features of the other places, in the type of the blocks."""

    def __init__(self, spec: ContextRegressor, rngs: nnx.Rngs):
        self.spec = spec
        self.query = normal(rngs, (spec.width,), spec.width**-0.5)
        self.blocks = stack_blocks(spec, rngs, RegressorBlock)
        self.norm = spec.build_norm(spec.width)

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        spec, tokens = self.spec, inputs.x.astype(compute_dtype(self.spec.dtype))
        rows, count = tokens.shape[:2]
        grid = inputs.grid or (count,)
        shown = jnp.broadcast_to(jnp.arange(count), (rows, count)) if inputs.keep is None else inputs.keep
        hidden = shown if inputs.keep is None else _others(shown, math.prod(grid))
        positions = jnp.asarray(sincos_positions(grid, spec.width, endpoint=False), tokens.dtype)
        positions = positions[jnp.concatenate([shown, hidden], axis=1)]
        real = None if inputs.valid is None else jnp.concatenate([inputs.valid, jnp.ones_like(hidden, bool)], axis=1)
        read = Context(
            tokens,
            positions,
            attention_mask(real, count, causal=False),
            inputs.keys("dropout", spec.dropout),
            inputs.keys("stochastic_depth", spec.stochastic_depth),
        )
        h = jnp.broadcast_to(self.query[...].astype(tokens.dtype), (*hidden.shape, spec.width))
        h, *_ = run_blocks(self.blocks, mesh.constrain(h), spec=spec, read=read, readout=lambda h: h, intermediates=())
        h = self.norm(h)
        return EncoderOutput(h.mean(axis=1, dtype=jnp.float32), h, kept=hidden, grid=grid)


def _others(shown: Array, count: int) -> Array:
    """Return the places, of ``count``, that are not among ``shown`` int32 [B,n], rising int32 [B,count-n]."""
    hidden = jax.vmap(lambda at: jnp.ones(count, bool).at[at].set(False))(shown)
    index = jax.vmap(lambda row: jnp.nonzero(row, size=count - shown.shape[1])[0])(hidden)
    return index.astype(jnp.int32)
