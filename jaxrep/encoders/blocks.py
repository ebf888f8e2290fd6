"""The block of transformers, and the stack of blocks.

Blocks are stacked: the first axis of every leaf under ``blocks`` is the depth, and one compiled block is scanned over
it. Every tower starts as CLIP's text tower (Radford et al. 2021, released code). With width D and depth L, the standard
deviations are D**-0.5 for query, key and value, (2D)**-0.5 for the first layer of the MLP, and (2DL)**-0.5 for the two
layers that write into the residual stream (attention's output and the second layer of the MLP; with cross-attention
there are three, and it is (3DL)**-0.5). Biases start at zero.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array
from jaxrep.encoders.attention import KernelCall
from jaxrep.encoders.layers import Attention, Rotation, drop_branch, dropout, fold_keys
from jaxrep.encoders.remat import INPUT, in_parts, named, remat

if TYPE_CHECKING:
    from jaxrep.encoders.transformer import Transformer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sight:
    """Hold which tokens attention sees, and where they are."""

    mask: Array | None = None  # bool [B or 1,1,N or 1,N], True where attention is allowed
    rotation: Rotation | None = None
    call: KernelCall | None = None  # of the kernel that computes attention, in place of the mask; None: XLA does


@dataclasses.dataclass(frozen=True)
class BlockInputs:
    """Hold what the blocks read besides the tokens of the block before."""

    sight: Sight = Sight()
    local: Sight | None = None  # of local blocks; None: all see the same
    bias: Array | None = None  # [1 or B,H,N,N], added to the attention logits
    memory: Array | None = None  # [B,M,C]: what cross-attention reads; None: the branch is skipped
    memory_mask: Array | None = None  # bool [B,1,1,M]
    keys: Array | None = None  # [B], of the dropout
    depth_keys: Array | None = None  # [B], of the stochastic depth


class Block(nnx.Module):
    """Apply attention, cross-attention if there is a memory, and an MLP, each as a residual branch."""

    def __init__(self, spec: "Transformer", rngs: nnx.Rngs):
        width, branches = spec.width, 3 if spec.memory else 2
        out_std = (branches * width * spec.depth) ** -0.5
        self.spec = spec
        self.norm1 = spec.build_norm(width)
        self.attention = build_attention(spec, rngs, out_std=out_std)
        self.norm2 = spec.build_norm(width)
        self.mlp = spec.build_mlp(rngs, down_std=out_std)
        self.scale1 = build_layer_scale(spec)
        self.scale2 = build_layer_scale(spec)
        cross, memory = bool(spec.memory), spec.memory
        self.cross_norm = spec.build_norm(width) if cross else None
        self.cross_attention = build_attention(spec, rngs, out_std=out_std, context=memory) if cross else None
        self.cross_scale = build_layer_scale(spec) if cross else None

    def __call__(self, h: Array, read: BlockInputs, layer: Array | int) -> Array:
        """Map h [B,N,D] to [B,N,D]; ``layer`` is the number of this block in its stack."""
        spec, keys, depth_keys = self.spec, fold_keys(read.keys, layer), fold_keys(read.depth_keys, layer)
        post, rate = spec.norm == "post", spec.stochastic_depth * layer / max(spec.depth - 1, 1)
        sight = read.sight
        if read.local is not None and spec.local is not None:
            is_global = layer % spec.local.global_every == 0
            sight = jax.tree.map(lambda a, b: jnp.where(is_global, a, b), read.sight, read.local)

        def first_norm(x: Array) -> Array:
            return self.norm1(x) if spec.first_norm else jnp.where(layer == 0, x, self.norm1(x))

        def branch(h: Array, norm: Callable, apply: Callable, scale: nnx.Param | None, site: int) -> Array:
            y = apply(h if post else norm(h))
            y = y if scale is None else y * scale[...].astype(y.dtype)
            y = dropout(y, spec.dropout, fold_keys(keys, site))
            h = h + drop_branch(y, rate, fold_keys(depth_keys, site))
            return norm(h) if post else h

        def attend(x: Array) -> Array:
            return self.attention(x, x, sight.mask, read.bias, rotation=sight.rotation, call=sight.call)

        h = branch(named(h, INPUT), first_norm, attend, self.scale1, 0)
        if read.memory is not None and self.cross_attention is not None and self.cross_norm is not None:
            cross, memory = self.cross_attention, read.memory
            h = branch(h, self.cross_norm, lambda x: cross(x, memory, read.memory_mask), self.cross_scale, 2)
        h = named(h, "middle")
        return branch(h, self.norm2, lambda x: in_parts(self.mlp, spec.mlp_parts, x), self.scale2, 1)


def build_attention(spec: "Transformer", rngs: nnx.Rngs, *, out_std: float, context: int = 0) -> Attention:
    """Return the attention of a block; ``context``: width of what its keys and values are made of (0: the block's)."""
    return Attention(
        rngs,
        spec.width,
        spec.heads,
        context=context,
        out_std=out_std,
        qkv_bias=spec.qkv_bias,
        key_bias=spec.key_bias,
        out_bias=spec.out_bias,
        kv_heads=spec.kv_heads,
        norm=spec.build_norm if spec.qk_norm else None,
        inner_norm=spec.build_norm if "attention" in spec.inner_norms else None,
    )


def build_layer_scale(spec: "Transformer") -> nnx.Param | None:
    """Return the learned factors of the channels of a branch, or None if it has none."""
    return nnx.Param(jnp.full(spec.width, spec.layer_scale, jnp.float32)) if spec.layer_scale else None


def stack_blocks(spec: "Transformer", rngs: nnx.Rngs, block: Callable[..., nnx.Module] = Block) -> Any:
    """Return ``depth`` blocks as one module, in which the first axis of every leaf is the depth."""
    keys = jax.random.split(rngs.params(), spec.depth)
    return nnx.vmap(lambda key: block(spec, nnx.Rngs(key)))(keys)


def run_blocks(
    stack: nnx.Module,
    h: Array,
    *,
    spec: "Transformer",
    read: Any,
    readout: Callable[[Array], Array],
    intermediates: tuple[int, ...],
    tokens: tuple[int, ...] = (),
) -> tuple[Array, dict[int, Array], dict[int, Array]]:
    """Apply stacked blocks to h [B,N,D]. ``read``: what all blocks read besides, as ``Block`` reads ``BlockInputs``.

    Returns the last h, ``readout(h)`` after the blocks in ``intermediates``, and h after those in ``tokens``. All are
    read inside the scan, so the tokens of no other layer outlive their step.
    """
    graph, params = nnx.split(stack)

    def apply(h, params, layer):
        block: Any = nnx.merge(graph, params)
        return mesh.constrain(block(h, read, layer))

    apply = remat(apply, spec.remat, spec.save, scanned=spec.scan)

    if not spec.scan:
        pooled, seen = {}, {}
        for layer in range(spec.depth):
            h = apply(h, jax.tree.map(lambda leaf, layer=layer: leaf[layer], params), layer)
            if layer in intermediates:
                pooled[layer] = readout(h)
            if layer in tokens:
                seen[layer] = h
        return h, pooled, seen

    blank = jax.eval_shape(readout, h)

    def step(carry, xs):
        (h, held), (params, layer, wanted, slot) = carry, xs
        h = apply(h, params, layer)
        if held is not None:
            held = jax.lax.dynamic_update_index_in_dim(held, h, slot, 0)
        if not intermediates:
            return (h, held), None
        return (h, held), jax.lax.cond(wanted, readout, lambda _: jnp.zeros(blank.shape, blank.dtype), h)

    layers = jnp.arange(spec.depth)
    # Layers that are not asked for write into one more slot, which is not read.
    slots = [tokens.index(layer) if layer in tokens else len(tokens) for layer in range(spec.depth)]
    held = jnp.zeros((len(tokens) + 1, *h.shape), h.dtype) if tokens else None
    xs = (params, layers, jnp.isin(layers, jnp.array(intermediates, int)), jnp.array(slots))
    (h, held), pooled = jax.lax.scan(step, (h, held), xs)
    seen = {} if held is None else {block: held[slot] for slot, block in enumerate(tokens)}
    return h, {} if pooled is None else {block: pooled[block] for block in intermediates}, seen
