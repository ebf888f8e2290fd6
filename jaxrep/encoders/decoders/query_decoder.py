"""A decoder whose learned queries read an encoder's tokens (Carion et al. 2020, DETR, arXiv:2005.12872, section 3.2)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Float

from jaxrep import mesh
from jaxrep.batch import INFERENCE, Array, StepContext
from jaxrep.encoders.layers import MLP, Activation, Attention, Dense, LayerNorm, dropout, fold_keys, normal
from jaxrep.spec import Part, spec


class Decoded(NamedTuple):
    """What the queries found, float32."""

    whole: Float[Array, "B D"]  # of the query for the image
    parts: Float[Array, "B Q D"]  # of the queries for regions
    boxes: Float[Array, "B Q 4"]  # of the same: middle, width and height, from 0 to 1


@spec
class QueryDecoder(Part):
    """Queries for regions, and one more for the whole image, that attend to one another and to tokens."""

    queries: int = 5
    """Number of queries for regions, Q."""
    width: int = 512
    """Width D of queries and blocks; tokens are projected to it."""
    depth: int = 6
    """Number of blocks."""
    heads: int = 8
    """Number of attention heads; they divide the width."""
    mlp_ratio: float = 4.0
    """Width of the MLP's hidden layer, in widths (rounded to a whole number)."""
    activation: Activation = "relu"
    """Activation of the MLP."""
    norm_epsilon: float = 1e-5
    """Added to the variance under the root of every norm."""
    dropout: float = 0.0
    """Share of values that are dropped from the output of each branch, in training."""

    def problems(self) -> Iterator[str]:
        for name in ("queries", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}: it has to be at least 1"
        if self.heads >= 1 and self.width % self.heads:
            yield f"heads = {self.heads} do not divide width = {self.width}: take a number of heads that does"
        if not 0 <= self.dropout < 1:
            yield f"dropout is {self.dropout}: it is a share from 0 to below 1"

    def build(self, rngs: nnx.Rngs, *, inputs: int) -> "QueryDecoderModule":
        """The module. ``inputs``: the width of the tokens."""
        return QueryDecoderModule(self, rngs, inputs)


class QueryDecoderModule(nnx.Module):
    """Tokens [B,N,C] -> what the queries found. It computes in the type of the tokens."""

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

    def __call__(self, tokens: Float[Array, "B N C"], *, ctx: StepContext = INFERENCE) -> Decoded:
        tokens = self.token_norm(self.project(tokens))
        queries = jnp.broadcast_to(self.queries[...].astype(tokens.dtype), (len(tokens), *self.queries.shape))
        keys = ctx.keys("dropout") if ctx.training and self.dropout else None
        graph, params = nnx.split(self.blocks)

        def step(h: Array, xs: tuple[nnx.State, Array]) -> tuple[Array, None]:
            params, layer = xs
            return mesh.constrain(nnx.merge(graph, params)(h, queries, tokens, fold_keys(keys, layer))), None

        h, _ = jax.lax.scan(step, jnp.zeros_like(queries), (params, jnp.arange(self.depth)))
        h = self.norm(h).astype(jnp.float32)
        parts, whole = h[:, :-1], h[:, -1]
        return Decoded(whole, parts, self.box(parts))


class DecoderBlock(nnx.Module):
    """Attention among the queries, attention to the tokens, and an MLP: residual branches that normalize what they
    read. The learned queries are added to what asks and to what is asked for among the queries, in each block anew, and
    not to what is answered."""

    def __init__(self, spec: QueryDecoder, rngs: nnx.Rngs):
        width, hidden = spec.width, round(spec.width * spec.mlp_ratio)
        out_std = (3 * width * spec.depth) ** -0.5  # three branches a block write into the residual stream
        self.dropout = spec.dropout
        self.norm1 = LayerNorm(width, spec.norm_epsilon)
        self.attention = Attention(rngs, width, spec.heads, out_std=out_std)
        self.norm2 = LayerNorm(width, spec.norm_epsilon)
        self.cross_attention = Attention(rngs, width, spec.heads, out_std=out_std)
        self.norm3 = LayerNorm(width, spec.norm_epsilon)
        self.mlp = MLP(
            rngs, width, hidden, activation=spec.activation, up_std=(2 * width) ** -0.5, down_std=hidden**-0.5
        )

    def __call__(self, h: Array, queries: Array, tokens: Array, keys: Array | None = None) -> Array:
        """h, queries [B,Q,D] and tokens [B,N,D] -> [B,Q,D]. ``keys`` [B]: draws of the dropout."""

        def branch(h: Array, norm: LayerNorm, layer: Callable[[Array], Array], site: int) -> Array:
            return h + dropout(layer(norm(h)), self.dropout, fold_keys(keys, site))

        def among(x: Array) -> Array:
            return self.attention(x + queries, x + queries, values=x)

        h = branch(h, self.norm1, among, 0)
        h = branch(h, self.norm2, lambda x: self.cross_attention(x + queries, tokens), 1)
        return branch(h, self.norm3, self.mlp, 2)


class BoxHead(nnx.Module):
    """Three dense layers with ReLU between them, then a sigmoid (DETR, section 3.2)."""

    def __init__(self, rngs: nnx.Rngs, width: int):
        self.first = Dense(rngs, (width,), (width,))
        self.second = Dense(rngs, (width,), (width,))
        self.last = Dense(rngs, (width,), (4,))

    def __call__(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q 4"]:
        return jax.nn.sigmoid(self.last(jax.nn.relu(self.second(jax.nn.relu(self.first(x))))))
