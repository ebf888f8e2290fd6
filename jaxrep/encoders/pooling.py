"""Pooling: from tokens [B,N,D] to one vector per row."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.layers import MLP, Attention, attention_mask, normal

if TYPE_CHECKING:
    from jaxrep.encoders.transformer import Transformer


def first(tokens: Array, valid: Array | None) -> Array:
    """Return the first token (the class token of ViT and BERT), [B,N,D] -> [B,D]."""
    return tokens[:, 0]


def last(tokens: Array, valid: Array | None) -> Array:
    """Return the last token that is valid [B,N], [B,N,D] -> [B,D]; a row without valid tokens gives its first one."""
    if valid is None:
        return tokens[:, -1]
    index = jnp.max(jnp.where(valid, jnp.arange(valid.shape[1]), 0), axis=1)
    return jnp.take_along_axis(tokens, index[:, None, None], axis=1)[:, 0]


def mean(tokens: Array, valid: Array | None) -> Array:
    """Return the float32 mean of the tokens that are valid [B,N], [B,N,D] -> [B,D]; zeros for a row without any."""
    tokens = tokens.astype(jnp.float32)
    if valid is None:
        return tokens.mean(1)
    weight = valid.astype(jnp.float32)[..., None]
    return (tokens * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


POOLS: Mapping[str, Callable[[Array, Array | None], Array]] = {"cls": first, "eos": last, "mean": mean}


class AttentionPool(nnx.Module):
    """Pool by a learned query that attends to all tokens, and a residual MLP (Zhai et al. 2022, arXiv:2106.04560)."""

    def __init__(self, spec: "Transformer", rngs: nnx.Rngs):
        width, std = spec.width, spec.width**-0.5
        self.probe = normal(rngs, (width,), std)
        self.attention = Attention(rngs, width, spec.heads, out_std=std)
        self.norm = spec.build_norm(width)
        up_std, down_std = (2 * width) ** -0.5, spec.hidden**-0.5
        self.mlp = MLP(rngs, width, spec.hidden, activation=spec.activation, up_std=up_std, down_std=down_std)

    def __call__(self, tokens: Array, valid: Array | None) -> Array:
        """Map tokens [B,N,D] and valid bool [B,N] (or None) to [B,D]."""
        probe = jnp.broadcast_to(self.probe[...].astype(tokens.dtype), (tokens.shape[0], 1, tokens.shape[2]))
        x = self.attention(probe, tokens, attention_mask(valid, tokens.shape[1], causal=False))
        return (x + self.mlp(self.norm(x)))[:, 0]
