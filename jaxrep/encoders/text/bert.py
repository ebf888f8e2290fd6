"""BERT's encoder (Devlin et al. 2019, arXiv:1810.04805): bidirectional, normalized after each residual sum."""

import dataclasses
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from jaxrep.batch import Array, Field
from jaxrep.encoders.layers import Dense, normal
from jaxrep.encoders.transformer import Transformer
from jaxrep.encoders.transformer_module import TransformerModule
from jaxrep.spec import spec


@spec
class Bert(Transformer):
    """BERT. Presets take fields to change: ``Bert.base(pool="mean")``. Attention's own weights are never dropped."""

    rank: ClassVar[int] = 2

    norm: Literal["pre", "post"] = "post"
    """Where a block normalizes: what its branches read (pre; and once after all blocks), or the sums (post: BERT)."""
    norm_epsilon: float = 1e-12
    """Added to the variance under the root of every norm."""
    embed_norm: bool = True
    """A norm between the embedding and the first block."""
    dropout: float = 0.1
    """Share of values that are dropped from the embedding and from the output of each branch, in training."""
    segments: int = 2
    """Number of token types (BERT's sentences A and B), each with a learned vector; 0: there are none."""
    distances: int = 0
    """Buckets of distances between tokens, each with a learned bias of attention's logits a head, which all blocks share
    (MPNet: 32; Raffel et al. 2020, arXiv:1910.10683, section 2.1); 0: there are none."""
    pad: int = 0
    """Id of padding (RoBERTa: 1): where the batch does not say, a text ends with the last id that is another."""
    pool: Literal["cls", "mean", "tanh"] = "cls"
    """The first token, the mean of the real ones, or tanh of a dense layer on the first one (BERT's own pooler)."""

    @classmethod
    def mini(cls, **changes: Any) -> Self:
        """BERT-Mini (Turc et al. 2019, arXiv:1908.08962): 3 M parameters in its blocks."""
        return dataclasses.replace(cls(width=256, depth=4, heads=4), **changes)

    @classmethod
    def base(cls, **changes: Any) -> Self:
        """BERT-Base: 85 M parameters in its blocks."""
        return dataclasses.replace(cls(width=768, depth=12, heads=12), **changes)

    @classmethod
    def large(cls, **changes: Any) -> Self:
        """BERT-Large: 302 M parameters in its blocks."""
        return dataclasses.replace(cls(width=1024, depth=24, heads=16), **changes)

    def problems(self):
        yield from super().problems()
        if self.segments < 0:
            yield f"segments is {self.segments}: it counts token types, 0 or more"
        if self.distances < 0 or self.distances % 4:
            yield f"distances is {self.distances}: half of the buckets are for each side, half of those for one each"
        if self.pad < 0:
            yield f"pad is {self.pad}: it is a token's id, 0 or more"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "BertModule":
        return BertModule(self, rngs, inputs)


class BertModule(TransformerModule):
    """Token ids int32 [B,L], padded at the end -> features."""

    inert_padding: ClassVar[bool] = True  # a text's features are the same, however much of it there is

    def __init__(self, spec: Bert, rngs: nnx.Rngs, inputs: Field):
        if len(inputs.shape) != 1 or inputs.classes is None:
            raise ValueError(
                "BERT reads token ids of shape (L,) with a known number of classes (the vocabulary), and its input has "
                f"shape {inputs.shape} and classes {inputs.classes}"
            )
        super().__init__(spec, rngs, pool="mean" if spec.pool == "mean" else "cls")
        self.pad = spec.pad
        self.embedding = normal(rngs, (inputs.classes, spec.width), 0.02)
        self.positions = normal(rngs, (inputs.shape[0], spec.width), 0.02)
        self.segments = normal(rngs, (spec.segments, spec.width), 0.02) if spec.segments else None
        self.distances = normal(rngs, (spec.distances, spec.heads), 0.02) if spec.distances else None
        if spec.pool == "tanh":
            self.pool = nnx.data(TanhPool(rngs, spec.width))

    def embed(self, x: Array, segments: Array | None = None) -> tuple[Array, Array, Array]:
        """Ids [B,L] -> tokens h [B,L,D], positions [L,D], and which are real: all up to the last that is no padding.

        ``segments`` int [B,L]: the type of each token, by default 0; a caller that has them goes by ``embed`` and
        ``encode``.
        """
        length = self.positions.shape[0]
        if x.shape[1] > length:
            raise ValueError(f"texts of {x.shape[1]} tokens reach an encoder that was built for {length}")
        h = self.embedding[...][x]
        if self.segments is not None:
            h = h + self.segments[...][0 if segments is None else segments]
        filled = jnp.where(x != self.pad, jnp.arange(x.shape[1]), -1).max(axis=1, keepdims=True)
        return h, self.positions[: x.shape[1]], jnp.arange(x.shape[1]) <= filled

    def attention_bias(self, length: int) -> Array | None:
        if self.distances is None:
            return None
        place = np.arange(length)
        bucket = distance_buckets(place - place[:, None], self.distances.shape[0])
        return rearrange(self.distances[...][bucket], "n m h -> 1 h n m")


def distance_buckets(offset: np.ndarray, buckets: int, far: int = 128) -> np.ndarray:
    """The bucket of a token that lies ``offset`` places further on, an int each (Raffel et al. 2020, section 2.1).

    The first half of the buckets is for what comes before, the other for what comes after. Of each, half are for a
    distance of their own and the others grow with the distance, the last one being open from ``far`` on.
    """
    side, single, distance = buckets // 2, buckets // 4, np.abs(offset)
    growth = np.log(np.maximum(distance, 1) / single) / np.log(far / single)
    # A distance at the edge of a bucket belongs to it, however its logarithm is rounded.
    shared = single + np.floor(growth * (side - single) + 1e-6).astype(int)
    return np.where(offset > 0, side, 0) + np.where(distance < single, distance, np.minimum(shared, side - 1))


class TanhPool(nnx.Module):
    """BERT's pooler: tanh of a dense layer on the first token."""

    def __init__(self, rngs: nnx.Rngs, width: int):
        self.dense = Dense(rngs, (width,), (width,))

    def __call__(self, tokens: Array, valid: Array | None) -> Array:
        """tokens [B,N,D] -> [B,D]."""
        return jnp.tanh(self.dense(tokens[:, 0]))
