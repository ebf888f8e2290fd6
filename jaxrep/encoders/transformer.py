"""The fields that every transformer's spec has, and the module's steps from embedded tokens to features."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array
from jaxrep.encoders.base import Depth, DropRate, Encoder, EncoderInputs, EncoderOutput, Width, WidthRatio
from jaxrep.encoders.blocks import Remat, run_blocks, stack_blocks
from jaxrep.encoders.layers import (
    Activation,
    LayerNorm,
    Precision,
    attention_mask,
    compute_dtype,
    dropout,
    fold_keys,
    normal,
)
from jaxrep.encoders.pooling import POOLS, AttentionPool
from jaxrep.spec import Count, NonNegative, execution, spec


@spec
class Transformer(Encoder):
    """Declare a transformer (abstract): the fields that all of them have."""

    width: Width
    """Width D of tokens and features."""
    depth: Depth
    """Number of blocks."""
    heads: Count
    """Number of attention heads; it divides the width."""
    mlp_ratio: WidthRatio = 4.0
    """Width of the MLP's hidden layer over the width D (rounded to a whole number)."""
    activation: Activation = "gelu"
    """Activation of the MLP; quick_gelu is x * sigmoid(1.702 x), as in CLIP's released weights."""
    gated: bool = False
    """Whether the activation of a third layer of the MLP multiplies the first (SwiGLU: with silu; Shazeer 2020)."""
    norm: Literal["pre", "post"] = "pre"
    """What a block normalizes: the inputs of its branches (pre; also once after all blocks), or the sums (post)."""
    norm_epsilon: NonNegative = 1e-5
    """Added to the variance under the root of every norm."""
    embed_norm: bool = False
    """Whether a norm follows the embedding (CLIP's image tower, BERT)."""
    qkv_bias: bool = True
    """Whether query, key and value have biases."""
    layer_scale: NonNegative = 0.0
    """Initial value of a learned factor per channel on each branch (Touvron et al. 2021, CaiT); 0: no such factor."""
    dropout: DropRate = 0.0
    """Share of the values of the embedding and of each branch's output that training drops."""
    mask_token: bool = False
    """Whether a learned token replaces masked tokens."""
    dtype: Precision = "auto"
    """Type of activations and matrix products; auto: bfloat16 on accelerators, float32 on CPU."""
    remat: Remat = execution("dots")
    """What the backward pass recomputes: nothing, all but products of dense layers (dots), or whole blocks (full)."""
    scan: bool = execution(True)
    """Whether to scan over the blocks (compiled once) or to unroll them (compile time grows with the depth)."""

    @property
    def features(self) -> int:
        return self.width

    @property
    def hidden(self) -> int:
        """Return the width of the MLP's hidden layer."""
        return round(self.width * self.mlp_ratio)

    def problems(self) -> Iterator[str]:
        yield from head_problems(self.heads, self.width)


def head_problems(heads: int, width: int) -> Iterator[str]:
    """Yield a sentence if ``heads`` do not divide ``width``."""
    if width % heads:
        yield f"heads = {heads} do not divide width = {width}: take a number of heads that does"


class TransformerModule(nnx.Module, abc.ABC):
    """Encode embedded tokens (abstract). A concrete module creates its embedding's parameters and defines ``embed``.

    ``class_token`` and ``registers`` (Darcet et al. 2024) are learned tokens before the embedded ones; they are not
    among the output tokens. ``drop``: share of the embedded tokens that training drops (Li et al. 2023, FLIP).
    """

    def __init__(
        self,
        spec: Transformer,
        rngs: nnx.Rngs,
        *,
        pool: Literal["cls", "eos", "mean", "attention"],
        causal: bool = False,
        class_token: bool = False,
        registers: int = 0,
        drop: float = 0.0,
    ):
        width, std = spec.width, spec.width**-0.5
        self.spec, self.causal, self.drop = spec, causal, drop
        self.class_token = normal(rngs, (width,), std) if class_token else None
        self.registers = normal(rngs, (registers, width), std) if registers else None
        self.mask_token = normal(rngs, (width,), std) if spec.mask_token else None
        self.embed_norm = LayerNorm(width, spec.norm_epsilon) if spec.embed_norm else None
        self.blocks = stack_blocks(spec, rngs)
        self.norm = LayerNorm(width, spec.norm_epsilon) if spec.norm == "pre" else None
        self.pool = AttentionPool(spec, rngs) if pool == "attention" else POOLS[pool]

    @abc.abstractmethod
    def embed(self, x: Array) -> tuple[Array, Array, Array | None]:
        """Return tokens h [B,N,D] without positions, positions [N,D], and the real tokens (bool [B,N]; None: all)."""

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        h, positions, valid = self.embed(inputs.x)
        inputs = dataclasses.replace(inputs, valid=valid) if inputs.valid is None else inputs
        return self.encode(h, positions, inputs)

    def encode(self, h: Array, positions: Array, inputs: EncoderInputs) -> EncoderOutput:
        """Map tokens h [B,N,D] and positions [N,D], as ``embed`` returns them, to features. Pooled ones are float32.

        ``inputs.x`` is not read. Raises ValueError: tokens are masked and the encoder has no mask token, or an
        intermediate is not a block.
        """
        spec = self.spec
        inputs.check_intermediates(spec.depth)
        h = (self._mask(h, inputs.masked) + positions).astype(compute_dtype(spec.dtype))
        h, valid, kept = self._drop(h, inputs)
        h, prefix_and_valid = self._prepend(h, valid)
        h = h if self.embed_norm is None else self.embed_norm(h)
        keys = inputs.keys("dropout", spec.dropout)
        h, intermediates = run_blocks(
            self.blocks,
            mesh.constrain(dropout(h, spec.dropout, fold_keys(keys, 0))),
            spec=spec,
            mask=attention_mask(prefix_and_valid, h.shape[1], causal=self.causal),
            bias=self.attention_bias(h.shape[1]),
            keys=fold_keys(keys, 1),
            readout=lambda h: self._pooled(self._normed(h), valid),
            intermediates=inputs.intermediates,
        )
        h = self._normed(h)
        tokens = h[:, self._prefix :]
        return EncoderOutput(self._pooled(h, valid), tokens, valid, kept, intermediates)

    def attention_bias(self, length: int) -> Array | None:
        """Return what is added to the attention logits of every block among N tokens, [1,H,N,N], or None."""
        return None

    @property
    def _prefix(self) -> int:
        """Return the number of learned tokens before the embedded ones."""
        return (self.class_token is not None) + (0 if self.registers is None else self.registers.shape[0])

    def _mask(self, h: Array, masked: Array | None) -> Array:
        if masked is None:
            return h
        if self.mask_token is None:
            raise ValueError("tokens are masked and the encoder has no mask token: set mask_token = True in its spec")
        return jnp.where(masked[..., None], self.mask_token[...].astype(h.dtype), h)

    def _drop(self, h: Array, inputs: EncoderInputs) -> tuple[Array, Array | None, Array | None]:
        """Keep a static number of tokens, drawn per row; also return ``valid`` and the kept indices, int32 [B,N']."""
        keys, valid = inputs.keys("patch_dropout", self.drop), inputs.valid
        if keys is None:
            return h, valid, None
        n = h.shape[1]
        count = max(1, round(n * (1 - self.drop)))
        kept = jax.vmap(lambda key: jnp.sort(jax.random.permutation(key, n)[:count]))(keys)
        h = jnp.take_along_axis(h, kept[..., None], axis=1)
        return h, None if valid is None else jnp.take_along_axis(valid, kept, axis=1), kept

    def _prepend(self, h: Array, valid: Array | None) -> tuple[Array, Array | None]:
        """Put class token and registers before h, and return which of all these tokens are real."""
        if not self._prefix:
            return h, valid
        learned = [jnp.atleast_2d(token[...]) for token in (self.class_token, self.registers) if token is not None]
        prefix = jnp.concatenate(learned).astype(h.dtype)
        h = jnp.concatenate([jnp.broadcast_to(prefix, (h.shape[0], *prefix.shape)), h], axis=1)
        return h, None if valid is None else jnp.pad(valid, ((0, 0), (self._prefix, 0)), constant_values=True)

    def _normed(self, h: Array) -> Array:
        return h if self.norm is None else self.norm(h)

    def _pooled(self, h: Array, valid: Array | None) -> Array:
        h = h if self.class_token is not None else h[:, self._prefix :]
        return self.pool(h, valid).astype(jnp.float32)
