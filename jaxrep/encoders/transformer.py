"""What transformers share: the fields of their specs, the block, and the stack of blocks.

Blocks are stacked: every leaf under ``blocks`` leads with the depth, and one block is compiled and scanned over them.
Every tower starts as CLIP's text tower (Radford et al. 2021, released code): with width D and depth L, standard
deviations of D**-0.5 for query, key and value, (2D)**-0.5 for the first layer of the MLP, (2DL)**-0.5 for what writes
into the residual stream (attention's output and the second layer of the MLP), and biases at zero.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array
from jaxrep.encoders.base import Encoder
from jaxrep.encoders.layers import MLP, Activation, Attention, LayerNorm, Precision, dropout, fold_keys
from jaxrep.spec import execution, spec

Remat = Literal["none", "dots", "full"]
REMAT_POLICIES: dict[str, Any] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


@spec
class Transformer(Encoder):
    """Abstract: the fields of every transformer."""

    width: int
    """Width D of tokens and features."""
    depth: int
    """Number of blocks."""
    heads: int
    """Number of attention heads; they divide the width."""
    mlp_ratio: float = 4.0
    """Width of the MLP's hidden layer, in widths (rounded to a whole number)."""
    activation: Activation = "gelu"
    """Activation of the MLP; quick_gelu is x * sigmoid(1.702 x), as in CLIP's released weights."""
    gated: bool = False
    """A third layer in the MLP whose activation multiplies the first one (SwiGLU: gated with silu; Shazeer 2020)."""
    norm: Literal["pre", "post"] = "pre"
    """Where a block normalizes: what its branches read (pre; and once after all blocks), or the sums (post: BERT)."""
    norm_epsilon: float = 1e-5
    """Added to the variance under the root of every norm."""
    embed_norm: bool = False
    """A norm between the embedding and the first block (CLIP's image tower, BERT)."""
    qkv_bias: bool = True
    """Biases on query, key and value."""
    layer_scale: float = 0.0
    """Initial value of a learned factor a channel on each branch (Touvron et al. 2021, CaiT); 0: there is none."""
    dropout: float = 0.0
    """Share of values that are dropped from the embedding and from the output of each branch, in training."""
    mask_token: bool = False
    """A learned token that replaces those that ``hide`` names."""
    dtype: Precision = "auto"
    """Type of activations and matrix products; auto: bfloat16 on accelerators, float32 on CPU."""
    remat: Remat = execution("dots")
    """What the backward pass computes again: nothing, all but dense layers' products (dots), or whole blocks (full)."""
    scan: bool = execution(True)
    """Scan over the blocks (compiled once), or unroll them (compile time grows with the depth)."""

    @property
    def features(self) -> int:
        return self.width

    @property
    def hidden(self) -> int:
        """Width of the MLP's hidden layer."""
        return round(self.width * self.mlp_ratio)

    def problems(self) -> Iterator[str]:
        for name in ("width", "depth", "heads"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}: it has to be at least 1"
        if self.heads >= 1 and self.width % self.heads:
            yield f"heads = {self.heads} do not divide width = {self.width}: take a number of heads that does"
        if not 0 < self.mlp_ratio < math.inf:
            yield f"mlp_ratio is {self.mlp_ratio}: it has to be positive and finite"
        if self.norm_epsilon < 0:
            yield f"norm_epsilon is {self.norm_epsilon}: it has to be 0 or more"
        if not 0 <= self.dropout < 1:
            yield f"dropout is {self.dropout}: it is a share from 0 to below 1"
        if self.layer_scale < 0:
            yield f"layer_scale is {self.layer_scale}: it is an initial factor above 0, or 0 for none"


class Block(nnx.Module):
    """Attention and MLP, each a residual branch."""

    def __init__(self, spec: Transformer, rngs: nnx.Rngs):
        width, out_std = spec.width, (2 * spec.width * spec.depth) ** -0.5
        self.post, self.dropout = spec.norm == "post", spec.dropout
        self.norm1 = LayerNorm(width, spec.norm_epsilon)
        self.attention = Attention(rngs, width, spec.heads, out_std=out_std, qkv_bias=spec.qkv_bias)
        self.norm2 = LayerNorm(width, spec.norm_epsilon)
        self.mlp = MLP(
            rngs,
            width,
            spec.hidden,
            activation=spec.activation,
            up_std=(2 * width) ** -0.5,
            down_std=out_std,
            gated=spec.gated,
        )
        self.scale1 = nnx.Param(jnp.full(width, spec.layer_scale, jnp.float32)) if spec.layer_scale else None
        self.scale2 = nnx.Param(jnp.full(width, spec.layer_scale, jnp.float32)) if spec.layer_scale else None

    def __call__(
        self, h: Array, mask: Array | None = None, keys: Array | None = None, bias: Array | None = None
    ) -> Array:
        """h [B,N,D] -> [B,N,D]. ``mask`` bool [B,1,N,N]: where attention may go; ``keys`` [B]: draws of the dropout;
        ``bias`` [1,H,N,N]: of attention's logits."""

        def branch(h: Array, norm: LayerNorm, layer: Callable, scale: nnx.Param | None, site: int) -> Array:
            y = layer(h if self.post else norm(h))
            y = y if scale is None else y * scale[...].astype(y.dtype)
            h = h + dropout(y, self.dropout, fold_keys(keys, site))
            return norm(h) if self.post else h

        h = branch(h, self.norm1, lambda x: self.attention(x, x, mask, bias), self.scale1, 0)
        return branch(h, self.norm2, self.mlp, self.scale2, 1)


def stack_blocks(spec: Transformer, rngs: nnx.Rngs) -> Block:
    """``depth`` blocks in one: every leaf leads with the depth."""
    keys = jax.random.split(rngs.params(), spec.depth)
    return nnx.vmap(lambda key: Block(spec, nnx.Rngs(key)))(keys)


def run_blocks(
    stack: Block,
    h: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    keys: Array | None = None,
    readout: Callable[[Array], Array],
    intermediates: tuple[int, ...] = (),
    remat: Remat = "none",
    scan: bool = True,
) -> tuple[Array, dict[int, Array]]:
    """Applies stacked blocks to h [B,N,D]: the last h, and ``readout(h)`` after the blocks in ``taps``, counted from 0.

    A tap is read inside the scan, where its layer is at hand: no other layer's tokens outlive their step.
    """
    graph, params = nnx.split(stack)
    depth = jax.tree.leaves(params)[0].shape[0]
    if wrong := [tap for tap in intermediates if not 0 <= tap < depth]:
        raise ValueError(
            f"intermediates {wrong} are not blocks of an encoder of depth {depth}: they count from 0 to {depth - 1}"
        )

    def apply(h, params, layer):
        block = nnx.merge(graph, params)
        return mesh.constrain(block(h, mask, fold_keys(keys, layer), bias))

    if remat != "none":
        apply = jax.checkpoint(apply, policy=REMAT_POLICIES[remat], prevent_cse=not scan)

    if not scan:
        read = {}
        for layer in range(depth):
            h = apply(h, jax.tree.map(lambda leaf, layer=layer: leaf[layer], params), layer)
            if layer in intermediates:
                read[layer] = readout(h)
        return h, read

    blank = jax.eval_shape(readout, h)

    def step(h, xs):
        params, layer, wanted = xs
        h = apply(h, params, layer)
        return h, jax.lax.cond(
            wanted, readout, lambda _: jnp.zeros(blank.shape, blank.dtype), h
        ) if intermediates else None

    layers = jnp.arange(depth)
    h, read = jax.lax.scan(step, h, (params, layers, jnp.isin(layers, jnp.array(intermediates, int))))
    return h, {} if read is None else {tap: read[tap] for tap in intermediates}
