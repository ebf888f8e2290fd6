"""An encoder of triples (subject, relation, object): the knowledge-enhanced encoder of Structure-CLIP.

Huang et al. 2024, arXiv:2305.06152, in the form of the released code.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jaxrep.batch import INFERENCE, Array, Field, StepContext
from jaxrep.encoders.base import EncoderOutput
from jaxrep.encoders.layers import LayerNorm, normal
from jaxrep.encoders.transformer import Transformer
from jaxrep.encoders.transformer_module import TransformerModule
from jaxrep.spec import spec


@spec
class TripleTransformer(Transformer):
    """A transformer over the T triples of an example, which have no order; it reads their parts as texts, [B,3T,L].

    A part is the mean of its tokens' embeddings, a triple subject + relation - object. The features are those of the
    first triple; those of an example without any mean nothing.
    """

    rank: ClassVar[int] = 3

    norm: Literal["pre", "post"] = "post"
    """Where a block normalizes, as of every transformer."""
    norm_epsilon: float = 1e-12
    """Added to the variance under the root of every norm; the tokens' embeddings have one, too."""
    tokens: int = 5
    """Tokens of a part that are read, special ones included; the rest is cut."""
    special: int = 2
    """Tokens of an empty text, as its start and end: a triple whose subject has no more is none."""

    @classmethod
    def bert_base(cls, **changes: Any) -> Self:
        """With the blocks of BERT-Base."""
        return dataclasses.replace(cls(width=768, depth=12, heads=12, dropout=0.1), **changes)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if not 0 <= self.special < self.tokens:
            yield f"of {self.tokens} tokens {self.special} are special ones: leave room for others"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "TripleModule":
        return TripleModule(self, rngs, inputs)


class TripleModule(TransformerModule):
    """Token ids int32 [B,3T,L] -> features."""

    def __init__(self, spec: TripleTransformer, rngs: nnx.Rngs, inputs: Field):
        if len(inputs.shape) != 2 or inputs.shape[0] % 3 or inputs.classes is None:
            raise ValueError(
                "triples are read as token ids of shape (3T, L) with a known number of classes (the vocabulary), and "
                f"the input has shape {inputs.shape} and classes {inputs.classes}"
            )
        super().__init__(spec, rngs, pool="cls")
        self.special = spec.special
        self.embedding = normal(rngs, (inputs.classes, spec.width), 0.02)
        self.positions = normal(rngs, (min(spec.tokens, inputs.shape[1]), spec.width), 0.02)
        self.token_norm = LayerNorm(spec.width, spec.norm_epsilon)

    def __call__(
        self,
        x: Array,
        *,
        valid: Array | None = None,
        masked: Array | None = None,
        intermediates: tuple[int, ...] = (),
        ctx: StepContext = INFERENCE,
    ) -> EncoderOutput:
        """``valid``: which tokens are real, of the shape of x or with B and 3T in one axis; else ids other than 0."""
        h, real = self.triples(x, x != 0 if valid is None else valid.reshape(x.shape))
        # A row without triples attends to what is not there: a softmax needs something.
        seen = real | ~real.any(axis=1, keepdims=True)
        return self.encode(h, jnp.zeros(()), valid=seen, masked=masked, intermediates=intermediates, ctx=ctx)

    def triples(self, x: Array, valid: Array) -> tuple[Array, Array]:
        """Ids and which are real, [B,3T,L] -> triples [B,T,D], and which of them there are [B,T]."""
        length = self.positions.shape[0]
        ids, valid = x[..., :length], valid[..., :length]
        h = self.token_norm(self.embedding[...][ids] + self.positions[: ids.shape[-1]])
        weights = valid[..., None].astype(h.dtype)
        parts = jnp.sum(h * weights, axis=2) / jnp.maximum(jnp.sum(weights, axis=2), 1)
        subject, relation, other = rearrange(parts, "b (t part) d -> part b t d", part=3)
        return subject + relation - other, valid[:, ::3].sum(axis=-1) > self.special
