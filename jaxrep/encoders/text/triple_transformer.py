"""The knowledge-enhanced encoder of Structure-CLIP, which reads triples (subject, relation, object).

Huang et al. 2024, arXiv:2305.06152, in the form of the released code.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import jax.numpy as jnp
from einops import rearrange
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array, Field
from jaxrep.encoders.base import EncoderInputs, EncoderOutput, preset
from jaxrep.encoders.layers import normal
from jaxrep.encoders.transformer import Transformer, TransformerModule
from jaxrep.spec import Count, Natural, NonNegative, spec


@spec
class TripleTransformer(Transformer):
    """Encode the T triples of an example, which have no order, by a transformer; their parts are texts [B,3T,L].

    A part is the mean of its tokens' embeddings, and a triple is subject + relation - object. The features are those of
    the first triple; those of an example without triples have no meaning.
    """

    rank: ClassVar[int] = 3

    norm: Literal["pre", "post"] = "post"
    """What a block normalizes: the inputs of its branches (pre), or the sums (post)."""
    norm_epsilon: NonNegative = 1e-12
    """Added to the variance under the root of every norm, also of the one after the tokens' embeddings."""
    tokens: Count = 5
    """Tokens of a part that are read, special ones included; the rest is cut."""
    special: Natural = 2
    """Tokens of an empty text, such as start and end: a triple whose subject has no more does not exist."""

    bert_base = preset("an encoder with the blocks of BERT-Base", width=768, depth=12, heads=12, dropout=0.1)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.special >= self.tokens:
            yield f"of {self.tokens} tokens {self.special} are special ones: leave room for others"

    def build(self, rngs: nnx.Rngs, *, inputs: Field) -> "TripleModule":
        return TripleModule(self, rngs, inputs)


class TripleModule(TransformerModule):
    """Map token ids int32 [B,3T,L] to features."""

    spec: TripleTransformer

    def __init__(self, spec: TripleTransformer, rngs: nnx.Rngs, inputs: Field):
        if len(inputs.shape) != 2 or inputs.shape[0] % 3 or inputs.classes is None:
            raise ValueError(
                "triples are read as token ids of shape (3T, L) with a known number of classes (the vocabulary), and "
                f"the input has shape {inputs.shape} and classes {inputs.classes}"
            )
        super().__init__(spec, rngs, pool="cls")
        self.embedding = normal(rngs, (inputs.classes, spec.width), 0.02)
        self.positions = normal(rngs, (min(spec.tokens, inputs.shape[1]), spec.width), 0.02)
        self.token_norm = spec.build_norm(spec.width)

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        """Encode triples. ``inputs.valid``: real tokens, shaped as x or [B*3T,L]; by default all ids but 0."""
        h, positions, valid = self.embed(inputs.x, inputs.valid, in_loop=inputs.ctx.microbatch)
        return self.encode(h, positions, dataclasses.replace(inputs, valid=valid))

    def embed(self, x: Array, valid: Array | None = None, *, in_loop: bool = False) -> tuple[Array, Array, Array]:
        """Map ids [B,3T,L] to triples [B,T,D], their positions (zero), and which of them attention reads, bool [B,T].

        Attention reads the triples that exist. In a row without any it reads all: a softmax needs something.
        """
        valid = x != 0 if valid is None else valid.reshape(x.shape)
        length = self.positions.shape[0]
        ids, valid = x[..., :length], valid[..., :length]
        h = self.token_norm(mesh.look_up(self.embedding[...], ids, in_loop=in_loop) + self.positions[: ids.shape[-1]])
        weights = valid[..., None].astype(h.dtype)
        parts = jnp.sum(h * weights, axis=2) / jnp.maximum(jnp.sum(weights, axis=2), 1)
        subject, relation, other = rearrange(parts, "b (t part) d -> part b t d", part=3)
        exists = valid[:, ::3].sum(axis=-1) > self.spec.special
        return subject + relation - other, jnp.zeros(()), exists | ~exists.any(axis=1, keepdims=True)
