"""BERT's encoder (Devlin et al. 2019, arXiv:1810.04805): bidirectional, normalized after each residual sum."""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.base import DropRate, preset
from jaxrep.encoders.layers import Dense, normal
from jaxrep.encoders.positions import Grid, SequenceRotary
from jaxrep.encoders.text.text_encoder import TextEncoder, TextEncoderModule
from jaxrep.encoders.transformer import LocalAttention
from jaxrep.spec import Natural, NonNegative, spec

MODERN: dict[str, Any] = dict(
    norm="pre",
    norm_epsilon=1e-5,
    norm_bias=False,
    first_norm=False,
    gated=True,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    dropout=0.0,
    segments=0,
    positions="none",
    rotary=SequenceRotary(base=160_000.0),
    local=LocalAttention(window=64, global_every=3, rotary=SequenceRotary(base=10_000.0)),
    pad=50_283,
)
"""What both sizes of ModernBERT share (Warner et al. 2024, arXiv:2412.13663, section 2, released code)."""


@spec
class Bert(TextEncoder):
    """Encode token ids by BERT. Presets take fields to change: ``Bert.base(pool="mean")``. Attention has no dropout."""

    norm: Literal["pre", "post"] = "post"
    """What a block normalizes: the inputs of its branches (pre; also once after all blocks), or the sums (post)."""
    norm_epsilon: NonNegative = 1e-12
    """Added to the variance under the root of every norm."""
    embed_norm: bool = True
    """Whether a norm follows the embedding."""
    dropout: DropRate = 0.1
    """Share of the values of the embedding and of each branch's output that training drops."""
    segments: Natural = 2
    """Number of token types (BERT's sentences A and B), each with a learned vector; 0: none."""
    distances: Natural = 0
    """Buckets of distances between tokens, each with a learned bias of the attention logits per head, which all blocks
    share (MPNet: 32; Raffel et al. 2020, arXiv:1910.10683, section 2.1); 0: none."""
    pad: Natural = 0
    """Id of padding (RoBERTa: 1). If the batch does not say, a text ends with the last other id."""
    pool: Literal["cls", "mean", "tanh"] = "cls"
    """The first token, the mean of the real tokens, or tanh of a dense layer on the first one (BERT's pooler)."""

    mini = preset(
        "BERT-Mini (Turc et al. 2019, arXiv:1908.08962): 3 M parameters in its blocks", width=256, depth=4, heads=4
    )
    base = preset("BERT-Base: 85 M parameters in its blocks", width=768, depth=12, heads=12)
    large = preset("BERT-Large: 302 M parameters in its blocks", width=1024, depth=24, heads=16)
    modern_base = preset(
        "ModernBERT-base: 110 M parameters in its blocks",
        **dict(MODERN, width=768, depth=22, heads=12, mlp_ratio=1152 / 768),
    )
    modern_large = preset(
        "ModernBERT-large: 343 M parameters in its blocks",
        **dict(MODERN, width=1024, depth=28, heads=16, mlp_ratio=2624 / 1024),
    )

    def problems(self):
        yield from super().problems()
        if self.distances % 4:
            yield f"distances is {self.distances}: expected a multiple of 4 (two sides, half of each for one distance)"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "BertModule":
        return BertModule(self, rngs, inputs)


class BertModule(TextEncoderModule):
    """Map token ids int32 [B,L], padded at the end, to features."""

    spec: Bert
    inert_padding: ClassVar[bool] = True  # the features of a text do not depend on the amount of padding

    def __init__(self, spec: Bert, rngs: nnx.Rngs, inputs: Field):
        super().__init__(spec, rngs, inputs, position_std=0.02, pool="mean" if spec.pool == "mean" else "cls")
        self.segments = normal(rngs, (spec.segments, spec.width), 0.02) if spec.segments else None
        self.distances = normal(rngs, (spec.distances, spec.heads), 0.02) if spec.distances else None
        if spec.pool == "tanh":
            self.pool = nnx.data(TanhPool(rngs, spec.width))
        self.add_marks(rngs)

    def embed(self, x: Array, segments: Array | None = None, *, in_loop: bool = False) -> tuple[Array, Array, Array]:
        """Return tokens h [B,L,D], positions [L,D], and which tokens are real: all up to the last one without padding.

        ``segments`` int [B,L]: the type of each token, by default 0. A caller that has segments calls ``embed`` and
        ``encode``.
        """
        positions = self.placed(x.shape[1])
        h = self.look_up(x, in_loop)
        if self.segments is not None:
            h = h + self.segments[...][0 if segments is None else segments]
        filled = jnp.where(x != self.spec.pad, jnp.arange(x.shape[1]), -1).max(axis=1, keepdims=True)
        return h, positions, jnp.arange(x.shape[1]) <= filled

    def relative_table(self, grid: Grid) -> tuple[Array, Any] | None:
        if self.distances is None:
            return None
        place = np.arange(grid[0])
        return self.distances[...], distance_buckets(place - place[:, None], self.distances.shape[0])


def distance_buckets(offset: np.ndarray, buckets: int, far: int = 128) -> np.ndarray:
    """Return the bucket of a token that lies ``offset`` places later, an int each (Raffel et al. 2020, section 2.1).

    The first half of the buckets is for earlier tokens, the other for later ones. In each half, half of the buckets
    hold one distance, and the others grow with the distance; the last one holds all distances from ``far`` on.
    """
    side, single, distance = buckets // 2, buckets // 4, np.abs(offset)
    growth = np.log(np.maximum(distance, 1) / single) / np.log(far / single)
    # The small number keeps a distance at the edge of a bucket in it, however the logarithm is rounded.
    shared = single + np.floor(growth * (side - single) + 1e-6).astype(int)
    return np.where(offset > 0, side, 0) + np.where(distance < single, distance, np.minimum(shared, side - 1))


class TanhPool(nnx.Module):
    """Pool as BERT: tanh of a dense layer on the first token."""

    def __init__(self, rngs: nnx.Rngs, width: int):
        self.dense = Dense(rngs, (width,), (width,))

    def __call__(self, tokens: Array, valid: Array | None) -> Array:
        """Map tokens [B,N,D] to [B,D]."""
        return jnp.tanh(self.dense(tokens[:, 0]))
