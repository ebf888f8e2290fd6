"""A decoder whose learned queries read tokens (Carion et al. 2020, DETR, arXiv:2005.12872, section 3.2)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from jaxrep import mesh
from jaxrep.batch import INFERENCE, Array, StepContext
from jaxrep.encoders.base import Depth, DropRate, Width, WidthRatio
from jaxrep.encoders.layers import (
    MLP,
    Activation,
    Attention,
    Dense,
    LayerNorm,
    dropout,
    fold_keys,
    head_problems,
    normal,
)
from jaxrep.spec import Count, NonNegative, Part, spec


class QueryDecoderOutput(NamedTuple):
    """Hold the output of the queries, float32."""

    image: Float[Array, "B D"]  # of the query for the image
    regions: Float[Array, "B Q D"]  # of the queries for regions
    boxes: Float[Array, "B Q 4"]  # of the queries for regions: center, width and height, from 0 to 1


@spec
class QueryDecoder(Part):
    """Decode tokens by queries, for regions and the whole image, that attend to each other and to the tokens."""

    queries: Count = 5
    """Number of queries for regions, Q."""
    width: Width = 512
    """Width D of queries and blocks; tokens are projected to it."""
    depth: Depth = 6
    """Number of blocks."""
    heads: Count = 8
    """Number of attention heads; it divides the width."""
    mlp_ratio: WidthRatio = 4.0
    """Width of the MLP's hidden layer over the width D (rounded to a whole number)."""
    activation: Activation = "relu"
    """Activation of the MLP."""
    norm_epsilon: NonNegative = 1e-5
    """Added to the variance under the root of every norm."""
    dropout: DropRate = 0.0
    """Share of the values of each branch's output that training drops."""

    def problems(self) -> Iterator[str]:
        yield from head_problems(self.heads, self.width)

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> "QueryDecoderModule":
        """Return the module. ``inputs``: the width of the tokens."""
        return QueryDecoderModule(self, rngs, inputs)


class QueryDecoderModule(nnx.Module):
    """Map tokens [B,N,C] to the output of the queries, and compute in the type of the tokens."""

    def __init__(self, spec: QueryDecoder, rngs: nnx.Rngs, inputs: int):
        width = spec.width
        self.depth, self.dropout = spec.depth, spec.dropout
        self.queries = normal(rngs, (spec.queries + 1, width), 1.0)
        self.project = Dense(rngs, (inputs,), (width,), bias=False)
        self.token_norm = LayerNorm(width, spec.norm_epsilon)
        keys = jax.random.split(rngs.params(), spec.depth)
        self.blocks = nnx.vmap(lambda key: DecoderBlock(spec, nnx.Rngs(key)))(keys)
        self.norm = LayerNorm(width, spec.norm_epsilon)
        self.box = BoxHead(rngs, width)

    def __call__(self, tokens: Float[Array, "B N C"], *, ctx: StepContext = INFERENCE) -> QueryDecoderOutput:
        tokens = self.token_norm(self.project(tokens))
        queries = jnp.broadcast_to(self.queries[...].astype(tokens.dtype), (len(tokens), *self.queries.shape))
        keys = ctx.keys("dropout") if ctx.training and self.dropout else None
        graph, params = nnx.split(self.blocks)

        def step(h: Array, xs: tuple[nnx.State, Array]) -> tuple[Array, None]:
            params, layer = xs
            return mesh.constrain(nnx.merge(graph, params)(h, queries, tokens, fold_keys(keys, layer))), None

        h, _ = jax.lax.scan(step, jnp.zeros_like(queries), (params, jnp.arange(self.depth)))
        h = self.norm(h).astype(jnp.float32)
        return QueryDecoderOutput(h[:, -1], h[:, :-1], self.box(h[:, :-1]))


class DecoderBlock(nnx.Module):
    """Apply self-attention, cross-attention to the tokens, and an MLP, as residual branches that normalize their input.

    Each block adds the learned queries to the attention's queries, and to its keys in self-attention, but never to its
    values.
    """

    def __init__(self, spec: QueryDecoder, rngs: nnx.Rngs):
        width, hidden = spec.width, round(spec.width * spec.mlp_ratio)
        out_std = (3 * width * spec.depth) ** -0.5  # three branches per block write into the residual stream
        self.dropout = spec.dropout
        self.norm1 = LayerNorm(width, spec.norm_epsilon)
        self.attention = Attention(rngs, width, spec.heads, out_std=out_std)
        self.norm2 = LayerNorm(width, spec.norm_epsilon)
        self.cross_attention = Attention(rngs, width, spec.heads, out_std=out_std)
        self.norm3 = LayerNorm(width, spec.norm_epsilon)
        up_std, down_std = (2 * width) ** -0.5, hidden**-0.5
        self.mlp = MLP(rngs, width, hidden, activation=spec.activation, up_std=up_std, down_std=down_std)

    def __call__(self, h: Array, queries: Array, tokens: Array, keys: Array | None = None) -> Array:
        """Map h and queries [B,Q,D] and tokens [B,N,D] to [B,Q,D]. ``keys`` [B]: keys of the dropout."""

        def branch(h: Array, norm: LayerNorm, layer: Callable[[Array], Array], site: int) -> Array:
            return h + dropout(layer(norm(h)), self.dropout, fold_keys(keys, site))

        h = branch(h, self.norm1, lambda x: self.attention(x + queries, x + queries, values=x), 0)
        h = branch(h, self.norm2, lambda x: self.cross_attention(x + queries, tokens), 1)
        return branch(h, self.norm3, self.mlp, 2)


class BoxHead(nnx.Module):
    """Apply three dense layers with ReLU between them, and a sigmoid (DETR, section 3.2)."""

    def __init__(self, rngs: nnx.Rngs, width: int):
        self.first = Dense(rngs, (width,), (width,))
        self.second = Dense(rngs, (width,), (width,))
        self.last = Dense(rngs, (width,), (4,))

    def __call__(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q 4"]:
        return jax.nn.sigmoid(self.last(jax.nn.relu(self.second(jax.nn.relu(self.first(x))))))
