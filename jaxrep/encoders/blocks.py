"""The block of transformers, and the stack of blocks.

Blocks are stacked: the first axis of every leaf under ``blocks`` is the depth, and one compiled block is scanned over
it. Every tower starts as CLIP's text tower (Radford et al. 2021, released code). With width D and depth L, the standard
deviations are D**-0.5 for query, key and value, (2D)**-0.5 for the first layer of the MLP, and (2DL)**-0.5 for the two
layers that write into the residual stream (attention's output and the second layer of the MLP). Biases start at zero.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array
from jaxrep.encoders.layers import MLP, Attention, LayerNorm, dropout, fold_keys

if TYPE_CHECKING:
    from jaxrep.encoders.transformer import Transformer

Remat = Literal["none", "dots", "full"]
REMAT_POLICIES: dict[str, Any] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(nnx.Module):
    """Apply attention and an MLP, each as a residual branch."""

    def __init__(self, spec: "Transformer", rngs: nnx.Rngs):
        width, out_std = spec.width, (2 * spec.width * spec.depth) ** -0.5
        self.post, self.dropout = spec.norm == "post", spec.dropout
        self.norm1 = LayerNorm(width, spec.norm_epsilon)
        self.attention = Attention(rngs, width, spec.heads, out_std=out_std, qkv_bias=spec.qkv_bias)
        self.norm2 = LayerNorm(width, spec.norm_epsilon)
        up_std, gated = (2 * width) ** -0.5, spec.gated
        self.mlp = MLP(
            rngs, width, spec.hidden, activation=spec.activation, up_std=up_std, down_std=out_std, gated=gated
        )
        self.scale1 = nnx.Param(jnp.full(width, spec.layer_scale, jnp.float32)) if spec.layer_scale else None
        self.scale2 = nnx.Param(jnp.full(width, spec.layer_scale, jnp.float32)) if spec.layer_scale else None

    def __call__(
        self, h: Array, mask: Array | None = None, keys: Array | None = None, bias: Array | None = None
    ) -> Array:
        """Map h [B,N,D] to [B,N,D].

        Args:
            h: the tokens.
            mask: bool [B,1,N,N], True where attention is allowed.
            keys: keys [B] of the dropout.
            bias: [1,H,N,N], added to the attention logits.
        """

        def branch(h: Array, norm: LayerNorm, layer: Callable, scale: nnx.Param | None, site: int) -> Array:
            y = layer(h if self.post else norm(h))
            y = y if scale is None else y * scale[...].astype(y.dtype)
            h = h + dropout(y, self.dropout, fold_keys(keys, site))
            return norm(h) if self.post else h

        h = branch(h, self.norm1, lambda x: self.attention(x, x, mask, bias), self.scale1, 0)
        return branch(h, self.norm2, self.mlp, self.scale2, 1)


def stack_blocks(spec: "Transformer", rngs: nnx.Rngs) -> Block:
    """Return ``depth`` blocks as one module, in which the first axis of every leaf is the depth."""
    keys = jax.random.split(rngs.params(), spec.depth)
    return nnx.vmap(lambda key: Block(spec, nnx.Rngs(key)))(keys)


def run_blocks(
    stack: Block,
    h: Array,
    *,
    spec: "Transformer",
    mask: Array | None,
    bias: Array | None,
    keys: Array | None,
    readout: Callable[[Array], Array],
    intermediates: tuple[int, ...],
) -> tuple[Array, dict[int, Array]]:
    """Apply stacked blocks to h [B,N,D]; return the last h, and ``readout(h)`` after the blocks in ``intermediates``.

    Intermediates are read inside the scan, so the tokens of no other layer outlive their step.
    """
    graph, params = nnx.split(stack)

    def apply(h, params, layer):
        block = nnx.merge(graph, params)
        return mesh.constrain(block(h, mask, fold_keys(keys, layer), bias))

    if spec.remat != "none":
        apply = jax.checkpoint(apply, policy=REMAT_POLICIES[spec.remat], prevent_cse=not spec.scan)

    if not spec.scan:
        read = {}
        for layer in range(spec.depth):
            h = apply(h, jax.tree.map(lambda leaf, layer=layer: leaf[layer], params), layer)
            if layer in intermediates:
                read[layer] = readout(h)
        return h, read

    blank = jax.eval_shape(readout, h)

    def step(h, xs):
        params, layer, wanted = xs
        h = apply(h, params, layer)
        if not intermediates:
            return h, None
        return h, jax.lax.cond(wanted, readout, lambda _: jnp.zeros(blank.shape, blank.dtype), h)

    layers = jnp.arange(spec.depth)
    h, read = jax.lax.scan(step, h, (params, layers, jnp.isin(layers, jnp.array(intermediates, int))))
    return h, {} if read is None else {block: read[block] for block in intermediates}
