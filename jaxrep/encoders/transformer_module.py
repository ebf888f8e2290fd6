"""The way of a transformer from embedded tokens to features; ViT, text and others differ in how they embed."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import INFERENCE, Array, StepContext
from jaxrep.encoders.base import EncoderOutput
from jaxrep.encoders.layers import LayerNorm, Precision, attention_mask, compute_dtype, dropout, fold_keys, normal
from jaxrep.encoders.pooling import POOLS, AttentionPool
from jaxrep.encoders.transformer import Remat, Transformer, run_blocks, stack_blocks


class TransformerModule(nnx.Module):
    """Abstract: a concrete one makes the parameters of its embedding in ``__init__`` and says ``embed``.

    ``class_token`` and ``registers`` (Darcet et al. 2024) are learned tokens before the embedded ones; they are not
    among the tokens of the output. ``drop``: share of embedded tokens left out in training (Li et al. 2023, FLIP).
    """

    dtype: Precision
    remat: Remat

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
        self.causal, self.drop, self.dropout = causal, drop, spec.dropout
        self.dtype, self.remat, self.scan = spec.dtype, spec.remat, spec.scan
        self.class_token = normal(rngs, (width,), std) if class_token else None
        self.registers = normal(rngs, (registers, width), std) if registers else None
        self.mask_token = normal(rngs, (width,), std) if spec.mask_token else None
        self.embed_norm = LayerNorm(width, spec.norm_epsilon) if spec.embed_norm else None
        self.blocks = stack_blocks(spec, rngs)
        self.norm = LayerNorm(width, spec.norm_epsilon) if spec.norm == "pre" else None
        if pool == "attention":
            self.pool = AttentionPool(spec, rngs)
        else:
            self.pool = POOLS[pool]

    def embed(self, x: Array) -> tuple[Array, Array, Array | None]:
        """x -> tokens h [B,N,D] without positions, positions [N,D], which tokens are real (bool [B,N]; None: all)."""
        raise TypeError(f"{type(self).__name__} does not embed its input")

    def __call__(
        self,
        x: Array,
        *,
        valid: Array | None = None,
        masked: Array | None = None,
        intermediates: tuple[int, ...] = (),
        ctx: StepContext = INFERENCE,
    ) -> EncoderOutput:
        h, positions, found = self.embed(x)
        return self.encode(
            h, positions, valid=found if valid is None else valid, masked=masked, intermediates=intermediates, ctx=ctx
        )

    def encode(
        self,
        h: Array,
        positions: Array,
        *,
        valid: Array | None = None,
        masked: Array | None = None,
        intermediates: tuple[int, ...] = (),
        ctx: StepContext = INFERENCE,
    ) -> EncoderOutput:
        """Tokens h [B,N,D] and positions [N,D], as ``embed`` gives them -> features, pooled ones in float32.

        ``valid`` bool [B,N]: tokens that are real; ``hide`` bool [B,N]: tokens that the mask token replaces; ``taps``:
        numbers of blocks, from 0, after which features are wanted too.
        """
        h = (self._hide(h, masked) + positions).astype(compute_dtype(self.dtype))
        h, valid, kept = self._drop(h, valid, ctx)
        h, everywhere = self._prepend(h, valid)
        h = h if self.embed_norm is None else self.embed_norm(h)
        keys = ctx.keys("dropout") if ctx.training and self.dropout else None
        h, read = run_blocks(
            self.blocks,
            mesh.constrain(dropout(h, self.dropout, fold_keys(keys, 0))),
            mask=attention_mask(everywhere, h.shape[1], causal=self.causal),
            bias=self.attention_bias(h.shape[1]),
            keys=fold_keys(keys, 1),
            readout=lambda h: self._pooled(self._normed(h), valid),
            intermediates=intermediates,
            remat=self.remat,
            scan=self.scan,
        )
        h = self._normed(h)
        return EncoderOutput(
            pooled=self._pooled(h, valid), tokens=h[:, self._prefix :], valid=valid, kept=kept, intermediates=read
        )

    def attention_bias(self, length: int) -> Array | None:
        """What is added to the logits of every block's attention among N tokens, [1,H,N,N]; None: nothing."""
        return None

    @property
    def _prefix(self) -> int:
        """Number of learned tokens before the embedded ones."""
        return (self.class_token is not None) + (0 if self.registers is None else self.registers.shape[0])

    def _hide(self, h: Array, masked: Array | None) -> Array:
        if masked is None:
            return h
        if self.mask_token is None:
            raise ValueError(
                "tokens are to be hidden and the encoder has no mask token: set mask_token = True in its spec"
            )
        return jnp.where(masked[..., None], self.mask_token[...].astype(h.dtype), h)

    def _drop(self, h: Array, valid: Array | None, ctx: StepContext) -> tuple[Array, Array | None, Array | None]:
        """Keeps a static number of tokens, drawn for each row; also which were kept, int32 [B,N'] in order."""
        if not (self.drop and ctx.training):
            return h, valid, None
        n = h.shape[1]
        count = max(1, round(n * (1 - self.drop)))
        draw = jax.vmap(lambda key: jnp.sort(jax.random.permutation(key, n)[:count]))
        kept = draw(ctx.keys("patch_dropout"))
        h = jnp.take_along_axis(h, kept[..., None], axis=1)
        return h, None if valid is None else jnp.take_along_axis(valid, kept, axis=1), kept

    def _prepend(self, h: Array, valid: Array | None) -> tuple[Array, Array | None]:
        """Class token and registers before h, and which of all these tokens are real."""
        if not self._prefix:
            return h, valid
        learned = [] if self.class_token is None else [self.class_token[...][None]]
        learned += [] if self.registers is None else [self.registers[...]]
        prefix = jnp.concatenate(learned).astype(h.dtype)
        h = jnp.concatenate([jnp.broadcast_to(prefix, (h.shape[0], *prefix.shape)), h], axis=1)
        return h, None if valid is None else jnp.pad(valid, ((0, 0), (self._prefix, 0)), constant_values=True)

    def _normed(self, h: Array) -> Array:
        return h if self.norm is None else self.norm(h)

    def _pooled(self, h: Array, valid: Array | None) -> Array:
        h = h if self.class_token is not None else h[:, self._prefix :]
        return self.pool(h, valid).astype(jnp.float32)
