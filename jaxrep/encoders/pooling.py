"""From tokens to one vector a row."""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx

from jaxrep.batch import Array
from jaxrep.encoders.layers import MLP, Attention, LayerNorm, attention_mask, normal
from jaxrep.encoders.transformer import Transformer


def first(tokens: Array, valid: Array | None) -> Array:
    """[B,N,D] -> [B,D]: the first token (class token of ViT and BERT)."""
    return tokens[:, 0]


def last(tokens: Array, valid: Array | None) -> Array:
    """[B,N,D] -> [B,D]: the last token that is valid [B,N]; a row without one gives its first token."""
    if valid is None:
        return tokens[:, -1]
    index = jnp.max(jnp.where(valid, jnp.arange(valid.shape[1]), 0), axis=1)
    return jnp.take_along_axis(tokens, index[:, None, None], axis=1)[:, 0]


def mean(tokens: Array, valid: Array | None) -> Array:
    """[B,N,D] -> [B,D]: mean over the tokens that are valid [B,N], in float32; a row without one gives zeros."""
    tokens = tokens.astype(jnp.float32)
    if valid is None:
        return tokens.mean(1)
    weight = valid.astype(jnp.float32)[..., None]
    return (tokens * weight).sum(1) / jnp.maximum(weight.sum(1), 1)


POOLS: Mapping[str, Callable[[Array, Array | None], Array]] = {"cls": first, "eos": last, "mean": mean}


class AttentionPool(nnx.Module):
    """A learned query attends to all tokens, then a residual MLP (Zhai et al. 2022, arXiv:2106.04560, section 3.2)."""

    def __init__(self, spec: Transformer, rngs: nnx.Rngs):
        width, std = spec.width, spec.width**-0.5
        self.probe = normal(rngs, (width,), std)
        self.attention = Attention(rngs, width, spec.heads, out_std=std)
        self.norm = LayerNorm(width, spec.norm_epsilon)
        self.mlp = MLP(
            rngs, width, spec.hidden, activation=spec.activation, up_std=(2 * width) ** -0.5, down_std=spec.hidden**-0.5
        )

    def __call__(self, tokens: Array, valid: Array | None) -> Array:
        """tokens [B,N,D], valid bool [B,N] or None -> [B,D]."""
        probe = jnp.broadcast_to(self.probe[...].astype(tokens.dtype), (tokens.shape[0], 1, tokens.shape[2]))
        x = self.attention(probe, tokens, attention_mask(valid, tokens.shape[1], causal=False))
        return (x + self.mlp(self.norm(x)))[:, 0]
