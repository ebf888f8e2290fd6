"""Compute attention in one TPU kernel: the logits never leave the chip.

Arrays keep the shape [B,N,H*d] in which the dense layers write them. So heads of 64 channels are not padded to the 128
lanes of a TPU, and nothing is transposed. One program of the kernel holds a row's queries, or a block of them, for as
many heads as fill whole lanes, and all keys and values of the row. So the softmax is exact in one pass, and no
statistics are kept: the backward pass makes the weights again from queries and keys. The order of operations is that of
``jax.nn.dot_product_attention``: logits and softmax in float32, weights in the type of the values, sums in float32.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from jaxrep.batch import Array
from jaxrep.mesh import ROWS, current_mesh, platform

LANES = 128
LOGITS_BYTES = 2**20
"""Most bytes of a block of logits, of which a program holds about six; a block has 128 queries at least."""
MIN_QUERIES = 128

MIB = 2**20
VMEM = {
    "TPU v4": 16 * MIB,
    "TPU v5": 64 * MIB,  # v5p
    "TPU v5 lite": 128 * MIB,
    "TPU v6 lite": 128 * MIB,
    "TPU7x": 64 * MIB,
}
"""Bytes of the vector memory of a core (``jax.experimental.pallas.tpu.get_tpu_info``); other kinds: the least."""

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
"""The logit of a key that is not seen, as in ``jax.nn.dot_product_attention``."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Hold what one call of the kernel compiles in."""

    head: int
    """Channels of a head, d."""
    group: int
    """Heads of queries that share a head of keys."""
    causal: bool


def pallas_attention(query: Array, key: Array, value: Array, *, causal: bool, lengths: Array | None) -> Array:
    """Return softmax(query key^T / sqrt(d)) value for query [B,N,H,d] and key, value [B,M,K,d]; K divides H.

    A query sees itself and earlier keys only if ``causal``, and the first ``lengths`` [B] keys; None: all.
    """
    rows, tokens, heads, width = query.shape
    config = Config(width, heads // key.shape[2], causal)
    out: Any = _attention(config, lengths, *(x.reshape(*x.shape[:2], -1) for x in (query, key, value)))
    return out.reshape(rows, tokens, heads, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(config: Config, lengths: Array | None, query: Array, key: Array, value: Array) -> Array:
    arrays = (query, _repeated(config, key), _repeated(config, value))
    return over_devices(functools.partial(_forward, config), lengths, arrays, query.shape[2] // config.head)


def _attention_forward(config: Config, lengths: Array | None, *arrays: Array) -> tuple[Array, Any]:
    return _attention(config, lengths, *arrays), (lengths, arrays)


def _attention_backward(config: Config, kept: Any, d_out: Array) -> tuple[None, Array, Array, Array]:
    lengths, (query, key, value) = kept
    arrays = (query, _repeated(config, key), _repeated(config, value), d_out)
    run = functools.partial(_backward, config)
    d_query, d_key, d_value = over_devices(run, lengths, arrays, query.shape[2] // config.head)
    return None, d_query, _summed(config, d_key).astype(key.dtype), _summed(config, d_value).astype(value.dtype)


def _repeated(config: Config, x: Array) -> Array:
    """Give each head of queries its head of keys, [B,M,K*d] -> [B,M,H*d]."""
    heads = x.reshape(*x.shape[:2], -1, config.head)
    return x if config.group == 1 else jnp.repeat(heads, config.group, axis=2).reshape(*x.shape[:2], -1)


def _summed(config: Config, x: Array) -> Array:
    """Sum over the heads of queries that share a head of keys, [B,M,H*d] -> [B,M,K*d]."""
    parts = x.reshape(*x.shape[:2], -1, config.group, config.head)
    return x if config.group == 1 else jnp.sum(parts, axis=3).reshape(*x.shape[:2], -1)


_attention.defvjp(_attention_forward, _attention_backward)


# Blocks and memory ----------------------------------------------------------------------------------------------------


def lanes_of(width: int, head: int) -> int:
    """Return the channels that a program takes of ``width``: whole heads in whole lanes, else all of them."""
    heads = width // head
    fitting = [n * head for n in range(1, heads + 1) if heads % n == 0 and n * head % LANES == 0]
    return min(fitting, default=width)


def queries_of(tokens: int, keys: int) -> int:
    """Return the queries of a program: all, or equal blocks of whole tiles."""
    most = max(LOGITS_BYTES // (4 * keys), MIN_QUERIES)
    blocks = -(-tokens // most)
    return tokens if blocks == 1 else -(-tokens // blocks // 16) * 16


def vmem_bytes(tokens: int, keys: int, lanes: int, itemsize: int) -> int:
    """Return an upper bound of the vector memory of the backward pass, which takes more than the forward pass."""
    queries, keys, lanes = (
        -(-n // tile) * tile for n, tile in zip((queries_of(tokens, keys), keys, lanes), (16, 128, 128), strict=True)
    )
    blocks = 2 * lanes * (itemsize * (3 * queries + 2 * keys) + 4 * 2 * keys)  # each in two buffers
    sums = 2 * 4 * lanes * keys
    return blocks + sums + 8 * 4 * queries * keys + 2 * MIB


def vmem_fits(tokens: int, heads: int, head: int, itemsize: int) -> bool:
    """Return whether attention of ``tokens`` to as many fits the vector memory of the device."""
    mesh = current_mesh()
    device = jax.devices()[0] if mesh is None or mesh.abstract_device is None else mesh.abstract_device
    needed = vmem_bytes(tokens, tokens, lanes_of(heads * head, head), itemsize)
    return needed <= VMEM.get(device.device_kind, min(VMEM.values()))


def over_devices(function: Callable, lengths: Array | None, arrays: Sequence[Array], heads: int) -> Any:
    """Return ``function(lengths, *arrays)``, which each device computes for its rows and heads.

    Arrays lead with the rows, and their third axis holds the heads. What the mesh does not divide is computed whole by
    every device: rows of class texts, say.
    """
    mesh = current_mesh()
    if mesh is None:
        return function(lengths, *arrays)
    rows = ROWS[0] if len(arrays[0]) % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else None
    layout = P(rows, None, None if heads % mesh.shape["tensor"] else "tensor")
    # Kernels do not declare over which axes their results vary, so that this is not checked.
    shared = jax.shard_map(function, in_specs=(P(rows), *[layout] * len(arrays)), out_specs=layout, check_vma=False)
    return shared(lengths, *arrays)


# The kernels ----------------------------------------------------------------------------------------------------------


def _weights(config: Config, first: Any, count: Any, query: Array, key: Array) -> Array:
    """Return the attention weights of one head, float32 [queries, keys].

    Args:
        config: of the call.
        first: index of the first query among all.
        count: number of keys that are seen; None: all.
        query: [queries, d].
        key: [keys, d].
    """
    logits = _product(query, key, 1, 1) * _scale(config)
    place = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
    seen = None if count is None else place < count
    if config.causal:
        past = place <= first + jax.lax.broadcasted_iota(jnp.int32, logits.shape, 0)
        seen = past if seen is None else seen & past
    logits = logits if seen is None else jnp.where(seen, logits, MASKED)
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return weights * (1 / jnp.sum(weights, axis=1, keepdims=True))


def _forward(config: Config, lengths: Array | None, query: Array, key: Array, value: Array) -> Array:
    """Return the output [B,N,C]; the channels C are those of whole heads."""

    def kernel(*refs):
        *counts, query, key, value, out = refs
        count = counts[0][pl.program_id(0)] if counts else None
        first = pl.program_id(2) * query.shape[1]
        parts = []
        for head in _heads(config, query):
            weights = _weights(config, first, count, query[0, :, head], key[0, :, head])
            parts.append(_product(weights.astype(value.dtype), value[0, :, head], 1, 0))
        out[0] = jnp.concatenate(parts, axis=1).astype(out.dtype)

    return _run(config, kernel, lengths, (query, key, value), "qkkq", products=2)[0]


def _backward(config: Config, lengths: Array | None, query: Array, key: Array, value: Array, d_out: Array) -> Any:
    """Return the derivatives by query, key and value, from those by the output [B,N,C]."""
    tokens = query.shape[1]
    whole = tokens % queries_of(tokens, key.shape[1]) == 0

    def kernel(*refs):
        *counts, query, key, value, d_out, d_query, d_key, d_value, key_sum, value_sum = refs
        count = counts[0][pl.program_id(0)] if counts else None
        block, first = pl.program_id(2), pl.program_id(2) * query.shape[1]
        # Of a row without keys all weights are equal, and no logit has a derivative.
        scale = _scale(config) if count is None else jnp.where(count > 0, _scale(config), 0)

        @pl.when(block == 0)
        def _():
            key_sum[...], value_sum[...] = jnp.zeros_like(key_sum), jnp.zeros_like(value_sum)

        def real(x):  # what lies behind the last query is not defined
            place = first + jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
            return x if whole else jnp.where(place < tokens, x, jnp.zeros_like(x))

        parts = []
        for head in _heads(config, query):
            q, k, v, d = real(query[0, :, head]), key[0, :, head], value[0, :, head], real(d_out[0, :, head])
            weights = _weights(config, first, count, q, k)
            d_weights = _product(d, v, 1, 1)
            d_logits = weights * (d_weights - jnp.sum(d_weights * weights, axis=1, keepdims=True))
            d_logits = (d_logits * scale).astype(k.dtype)
            parts.append(
                (_product(d_logits, k, 1, 0), _product(d_logits, q, 0, 0), _product(weights.astype(d.dtype), d, 0, 0))
            )
        by_query, by_key, by_value = (jnp.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        d_query[0] = by_query.astype(d_query.dtype)
        key_sum[...] += by_key
        value_sum[...] += by_value

        @pl.when(block == pl.num_programs(2) - 1)
        def _():
            d_key[0], d_value[0] = key_sum[...].astype(d_key.dtype), value_sum[...].astype(d_value.dtype)

    return _run(config, kernel, lengths, (query, key, value, d_out), "qkkqqkk", products=5, sums=2)


def _scale(config: Config) -> float:
    return 1 / math.sqrt(config.head)


def _heads(config: Config, block: Any) -> list[slice]:
    """Return the channels of each head of a block [1,N,C]."""
    return [slice(start, start + config.head) for start in range(0, block.shape[2], config.head)]


def _product(x: Array, y: Array, axis_of_x: int, axis_of_y: int) -> Array:
    """Return the matrix product over one axis of each, in float32."""
    dimensions = (((axis_of_x,), (axis_of_y,)), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


def _run(
    config: Config,
    kernel: Callable[..., None],
    lengths: Array | None,
    arrays: Sequence[Array],
    kinds: str,
    *,
    products: int,
    sums: int = 0,
) -> Any:
    """Run ``kernel`` for each row, each part of its heads, and each block of its queries; return the results.

    Args:
        config: of the call.
        kernel: reads and writes blocks: ``lengths`` if there are some, arrays, results, sums.
        lengths: number of keys that each row sees, int32 [B].
        arrays: what it reads; the first is led by queries, the second by keys.
        kinds: a letter for each array and each result: its second axis holds queries (q) or keys (k).
        products: number of matrix products of queries and keys.
        sums: number of float32 arrays [M,lanes] that the blocks of one row and part share.
    """
    (rows, tokens, width), keys, dtype = arrays[0].shape, arrays[1].shape[1], arrays[0].dtype
    lanes, queries = lanes_of(width, config.head), queries_of(tokens, keys)
    blocks = {
        "q": pl.BlockSpec((1, queries, lanes), lambda row, part, block, *_: (row, block, part)),
        "k": pl.BlockSpec((1, keys, lanes), lambda row, part, block, *_: (row, 0, part)),
    }
    reads, writes = kinds[: len(arrays)], kinds[len(arrays) :]
    summed = dtype if config.group == 1 else jnp.float32  # derivatives by keys of one group are added later
    shapes = {"q": jax.ShapeDtypeStruct(arrays[0].shape, dtype), "k": jax.ShapeDtypeStruct(arrays[1].shape, summed)}
    prefetched = () if lengths is None else (lengths,)
    return pl.pallas_call(
        kernel,
        [shapes[kind] for kind in writes],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(prefetched),
            grid=(rows, width // lanes, -(-tokens // queries)),
            in_specs=[blocks[kind] for kind in reads],
            out_specs=[blocks[kind] for kind in writes],
            scratch_shapes=[pltpu.VMEM((keys, lanes), jnp.float32)] * sums,
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"),
            vmem_limit_bytes=vmem_bytes(tokens, keys, lanes, dtype.itemsize),
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * products * rows * tokens * keys * width,
            transcendentals=rows * width // config.head * tokens * keys,
            bytes_accessed=sum(math.prod(shapes[kind].shape) * dtype.itemsize for kind in kinds),
        ),
        interpret=platform() != "tpu",
    )(*prefetched, *arrays)
