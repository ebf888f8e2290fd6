"""Attention by JAX's splash attention kernel for TPUs, which holds blocks of the keys: for very long rows.

It wants [B,H,N,d] in whole blocks and keeps statistics that take 128 lanes a query, so that short rows cost more than
by ``attention_pallas``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from jaxrep.batch import Array
from jaxrep.encoders.attention_pallas import over_devices
from jaxrep.mesh import platform

LANES = 128
MAX_BLOCK = 512


def splash_attention(query: Array, key: Array, value: Array, *, causal: bool, lengths: Array | None) -> Array:
    """Return softmax(query key^T / sqrt(d)) value for query [B,N,H,d] and key, value [B,N,K,d]; K divides H.

    A query sees itself and earlier keys only if ``causal``, and the first ``lengths`` [B] keys; None: all.
    """
    tokens = query.shape[1]
    lengths = jnp.full(len(query), tokens, jnp.int32) if lengths is None else lengths
    query = query * jnp.asarray(query.shape[3] ** -0.5, query.dtype)
    block = MAX_BLOCK if tokens >= 4 * MAX_BLOCK else LANES
    padded = [jnp.pad(x, ((0, 0), (0, -tokens % block), (0, 0), (0, 0))) for x in (query, key, value)]
    run = functools.partial(_run, causal, block)
    return over_devices(run, lengths, padded, key.shape[2])[:, :tokens]


def _run(causal: bool, block: int, lengths: Array, *arrays: Array) -> Array:
    """Compute whole blocks of tokens on one device."""
    tokens, heads = arrays[0].shape[1:3]
    shape = (tokens, tokens)
    mask = masks.CausalMask(shape) if causal else masks.FullMask(shape)
    kernel: Any = splash.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        # The fused backward kernel makes five products in place of seven, and one dq for each block of keys.
        block_sizes=splash.BlockSizes(block, block, block, block, block, block, block, block),
        head_shards=1,
        q_seq_shards=1,
        interpret=platform() != "tpu",
    )

    def of_row(query: Array, key: Array, value: Array, length: Array) -> Array:
        place = jnp.arange(tokens)
        segments = splash.SegmentIds(jnp.zeros_like(place), (place >= length).astype(jnp.int32))
        return kernel(query, key, value, segments)

    query, key, value = (jnp.swapaxes(x, 1, 2) for x in arrays)
    return jnp.swapaxes(jax.vmap(of_row)(query, key, value, lengths), 1, 2)
