"""The fields that every transformer's spec has, and the module's steps from embedded tokens to features."""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array
from jaxrep.encoders.attention import AttentionForm, choose_kernel, limits
from jaxrep.encoders.base import Depth, DropRate, Encoder, EncoderInputs, EncoderOutput, Width, WidthRatio, on_grid
from jaxrep.encoders.blocks import BlockInputs, Sight, run_blocks, stack_blocks
from jaxrep.encoders.layers import (
    MLP,
    Activation,
    LayerNorm,
    Precision,
    RMSNorm,
    attention_mask,
    compute_dtype,
    dropout,
    fold_keys,
    head_problems,
    normal,
)
from jaxrep.encoders.pooling import POOLS, AttentionPool
from jaxrep.encoders.positions import Grid, Rotary, of_kept, places, relative_bias
from jaxrep.encoders.remat import Remat, Saved, remat_problems
from jaxrep.spec import Count, Natural, NonNegative, execution, spec


@spec
class LocalAttention:
    """Limit attention to near tokens in all blocks but every ``global_every``-th, from the first on (ModernBERT).

    Warner et al. 2024, arXiv:2412.13663, section 2.1. Learned tokens before the others see all and are seen by all.
    """

    window: Count = 64
    """Largest distance, along each axis, of a token that a token sees."""
    global_every: Count = 3
    """Blocks from one that sees all tokens to the next."""
    rotary: Rotary | None = None
    """Rotary positions of the local blocks; None: those of the others."""


@spec
class Transformer(Encoder):
    """Declare a transformer (abstract): the fields that all of them have."""

    padded_at_end: ClassVar[bool] = False
    """Whether the tokens that are real come before all others, so that their number tells which."""

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
    norm_type: Literal["layer", "rms"] = "layer"
    """How norms normalize: by mean and variance, or by the root mean square alone (Zhang & Sennrich 2019)."""
    norm_bias: bool = True
    """Whether layer norms have a bias; norms by the root mean square have none."""
    norm_epsilon: NonNegative = 1e-5
    """Added to the variance under the root of every norm."""
    inner_norms: tuple[Literal["attention", "mlp"], ...] = ()
    """Branches with one more norm, before their last layer (Fang et al. 2023, EVA-02, arXiv:2303.11331)."""
    first_norm: bool = True
    """Whether the first block normalizes the input of its attention (not in ModernBERT: the embedding's norm did)."""
    embed_norm: bool = False
    """Whether a norm follows the embedding (CLIP's image tower, BERT)."""
    qkv_bias: bool = True
    """Whether query, key and value have biases."""
    key_bias: bool = True
    """Whether the key has a bias, if query and value have one (not in DINOv3)."""
    out_bias: bool = True
    """Whether the last layer of attention has a bias."""
    mlp_bias: bool = True
    """Whether the layers of the MLP have biases."""
    qk_norm: bool = False
    """Whether a norm follows each head's query and key (Dehghani et al. 2023, arXiv:2302.05442, section 2)."""
    kv_heads: Natural = 0
    """Heads of keys and values, each of which serves a group of query heads (Ainslie et al. 2023); 0: as many."""
    rotary: Rotary | None = None
    """Rotary positions of attention, besides those of the embedding; learned tokens before others are not turned."""
    local: LocalAttention | None = None
    """Which blocks see near tokens only; None: all blocks see all tokens."""
    memory: Natural = 0
    """Width of the tokens that each block's cross-attention reads, if a call has some; 0: no cross-attention."""
    layer_scale: NonNegative = 0.0
    """Initial value of a learned factor per channel on each branch (Touvron et al. 2021, CaiT); 0: no such factor."""
    dropout: DropRate = 0.0
    """Share of the values of the embedding and of each branch's output that training drops."""
    stochastic_depth: DropRate = 0.0
    """Probability that training drops a row's branch of the last block; it rises linearly from 0 at the first block."""
    mask_token: bool = False
    """Whether a learned token replaces masked tokens."""
    dtype: Precision = "auto"
    """Type of activations and matrix products; auto: bfloat16 on accelerators, float32 on CPU."""
    remat: Remat = execution("dots")
    """What the backward pass recomputes: nothing, all but products of dense layers (dots) or what ``save`` names
    (names), or whole blocks (full; offload: their inputs and what ``save`` names are kept in the host's memory)."""
    save: tuple[Saved, ...] = execution(())
    """Values of each block to keep: attention (what heads return), middle (tokens after it), hidden (of the MLP)."""
    mlp_parts: Count = execution(1)
    """Parts of the rows whose MLP is computed one after the other: its hidden layer exists for one part at a time."""
    scan: bool = execution(True)
    """Whether to scan over the blocks (compiled once) or to unroll them (compile time grows with the depth)."""
    attention: AttentionForm = execution("auto")
    """What computes the blocks' self-attention: XLA, or a kernel of GPUs (cudnn) or TPUs (pallas; splash for very long
    rows), which runs on them alone. auto: a fixed rule of platform and shapes, which takes kernels for long rows."""

    @property
    def features(self) -> int:
        return self.width

    @property
    def hidden(self) -> int:
        """Return the width of the MLP's hidden layer."""
        return round(self.width * self.mlp_ratio)

    def build_norm(self, width: int) -> LayerNorm | RMSNorm:
        """Return a norm over ``width`` channels."""
        if self.norm_type == "rms":
            return RMSNorm(width, self.norm_epsilon)
        return LayerNorm(width, self.norm_epsilon, bias=self.norm_bias)

    def build_mlp(self, rngs: nnx.Rngs, *, down_std: float) -> MLP:
        """Return the MLP of a block; ``down_std``: initial standard deviation of its last kernel."""
        inner_norm = self.build_norm if "mlp" in self.inner_norms else None
        kind: Any = dict(activation=self.activation, gated=self.gated, bias=self.mlp_bias, inner_norm=inner_norm)
        return MLP(rngs, self.width, self.hidden, up_std=(2 * self.width) ** -0.5, down_std=down_std, **kind)

    def problems(self) -> Iterator[str]:
        yield from head_problems(self.heads, self.width)
        if self.kv_heads and self.heads % self.kv_heads:
            yield f"kv_heads = {self.kv_heads} do not divide heads = {self.heads}: take a number that does"
        yield from remat_problems(self.remat, self.save)
        if self.rotary is not None and self.width % self.heads == 0 and (head := self.width // self.heads) % 2:
            yield f"rotary positions turn pairs of channels, and a head has {head}: change width or heads"
        if self.rotary is None and self.local is not None and self.local.rotary is not None:
            yield "local.rotary needs rotary: set the rotary positions of the other blocks too"
        if self.attention not in ("auto", "xla") and self.width % self.heads == 0:
            yield from limits(self.attention, self, self.dtype)
        if not self.first_norm and self.norm == "post":
            yield 'first_norm = False needs norm = "pre": with "post" every block normalizes its sums'


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
        self.grid: Grid | None = None  # of the input from which the encoder is built; None: tokens lie in a row
        self.class_token = normal(rngs, (width,), std) if class_token else None
        self.registers = normal(rngs, (registers, width), std) if registers else None
        self.mask_token = normal(rngs, (width,), std) if spec.mask_token else None
        self.embed_norm = spec.build_norm(width) if spec.embed_norm else None
        self.blocks = stack_blocks(spec, rngs)
        self.norm = spec.build_norm(width) if spec.norm == "pre" else None
        self.pool = AttentionPool(spec, rngs) if pool == "attention" else POOLS[pool]

    @abc.abstractmethod
    def embed(self, x: Array) -> tuple[Array, Array, Array | None]:
        """Return tokens h [B,N,D] without positions, positions [N,D], and the real tokens (bool [B,N]; None: all)."""

    def embed_inputs(self, inputs: EncoderInputs) -> tuple[Array, Array, Array | None, Grid | None]:
        """Return what ``embed`` returns for ``inputs.x`` with its marks, and the grid of the tokens (None: a row)."""
        return *self.embed(inputs.x), self.grid

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        h, positions, valid, grid = self.embed_inputs(inputs)
        valid = valid if inputs.valid is None else inputs.valid
        return self.encode(h, positions, dataclasses.replace(inputs, valid=valid, grid=grid))

    def encode(self, h: Array, positions: Array, inputs: EncoderInputs) -> EncoderOutput:
        """Map tokens h [B,N,D] and positions [N,D], as ``embed`` returns them, to features. Pooled ones are float32.

        ``inputs.x`` and ``inputs.marks`` are not read. Raises ValueError: tokens are masked and the encoder has no mask
        token, there is a memory and no cross-attention, or an intermediate is not a block.
        """
        spec = self.spec
        inputs.check_intermediates(spec.depth)
        inputs.check_masks(h.shape[1])
        h = (self._mask(h, inputs.masked) + positions).astype(compute_dtype(spec.dtype))
        grid = inputs.grid or self.grid or (h.shape[1],)
        h, valid, kept = self._drop(h, inputs)
        h, prefix_and_valid = self._prepend(h, valid)
        h = h if self.embed_norm is None else self.embed_norm(h)
        read = self._block_inputs(inputs, grid, kept, prefix_and_valid, h)
        h, intermediates, tokens = run_blocks(
            self.blocks,
            mesh.constrain(dropout(h, spec.dropout, fold_keys(inputs.keys("dropout", spec.dropout), 0))),
            spec=spec,
            read=read,
            readout=lambda h: self._pooled(self._normed(h), valid),
            intermediates=inputs.intermediates,
            tokens=tuple(dict.fromkeys((*inputs.intermediate_tokens, *inputs.intermediate_maps))),
        )
        h = self._normed(h)
        after = {block: self._normed(h)[:, self._prefix :] for block, h in tokens.items()}
        return EncoderOutput(
            self._pooled(h, valid),
            h[:, self._prefix :],
            valid,
            kept,
            intermediates,
            {block: after[block] for block in inputs.intermediate_tokens},
            grid=grid,
            intermediate_maps={block: on_grid(after[block], grid) for block in inputs.intermediate_maps},
        )

    def relative_table(self, grid: Grid) -> tuple[Array, Any] | None:
        """Return a table [rows,H] of attention biases and its row for each query and key, int [N,N], or None.

        The N tokens are those of the grid behind the learned ones.
        """
        return None

    def _block_inputs(
        self, inputs: EncoderInputs, grid: Grid, kept: Array | None, valid: Array | None, h: Array
    ) -> BlockInputs:
        """Return what all blocks read, for tokens h [B,N,D], learned ones included; ``valid`` [B,N]: real ones."""
        spec, prefix = self.spec, self._prefix
        table, all_kept = self.relative_table(grid), kept
        causal = self.causal if inputs.causal is None else inputs.causal
        call = choose_kernel(spec, h, valid, causal=causal, bias=table is not None)
        mask = None if call else attention_mask(valid, h.shape[1], causal=causal)
        sight = Sight(mask, self._rotation(spec.rotary, inputs, grid, kept), call)
        local = None
        if spec.local is not None:
            near = _near(grid, kept, spec.local.window, prefix)
            rotary = self._rotation(spec.local.rotary, inputs, grid, kept) if spec.local.rotary else sight.rotation
            local = Sight(near if mask is None else near & mask, rotary)
            sight = dataclasses.replace(sight, mask=jnp.ones_like(near) if mask is None else mask)
        if kept is not None and table is not None:
            all_kept = jnp.pad(kept + prefix, ((0, 0), (prefix, 0)))
            all_kept = all_kept.at[:, :prefix].set(jnp.arange(prefix))
        return BlockInputs(
            sight,
            local,
            None if table is None else relative_bias(*table, all_kept),
            self._memory(inputs, h),
            None if inputs.memory_valid is None else inputs.memory_valid[:, None, None, :],
            fold_keys(inputs.keys("dropout", spec.dropout), 1),
            inputs.keys("stochastic_depth", spec.stochastic_depth),
        )

    def _rotation(self, rotary: Rotary | None, inputs: EncoderInputs, grid: Grid, kept: Array | None) -> Any:
        """Return the rotation of all tokens, learned ones included, or None."""
        if rotary is None:
            return None
        rotation = rotary.rotation(grid, self.spec.width // self.spec.heads, inputs.keys("rotary", rotary.draws))
        return of_kept(rotation, kept, self._prefix)

    def _memory(self, inputs: EncoderInputs, h: Array) -> Array | None:
        """Check and return the memory in the type of the tokens."""
        memory, width = inputs.memory, self.spec.memory
        if memory is not None and memory.shape[-1] != width:
            has = f"reads a memory of width {width}" if width else "has no cross-attention"
            raise ValueError(f"the encoder {has}, and the memory's width is {memory.shape[-1]}: set memory in its spec")
        return None if memory is None else memory.astype(h.dtype)

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
        """Keep the tokens ``inputs.keep``, or a static number drawn per row.

        Returns the tokens, which of them are real, and the kept indices, int32 [B,N'], or None for all.
        """
        kept, valid = inputs.keep, inputs.valid
        if kept is None:
            kept = self._drawn(h.shape[1], inputs)
        if kept is None:
            return h, valid, None
        h = jnp.take_along_axis(h, kept[..., None], axis=1)
        return h, None if valid is None else jnp.take_along_axis(valid, kept, axis=1), kept

    def _drawn(self, n: int, inputs: EncoderInputs) -> Array | None:
        keys = inputs.keys("patch_dropout", self.drop)
        if keys is None:
            return None
        count = max(1, round(n * (1 - self.drop)))
        return jax.vmap(lambda key: jnp.sort(jax.random.permutation(key, n)[:count]))(keys)

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
        h = h if self.pool is POOLS["cls"] else h[:, self._prefix :]
        return self.pool(h, valid).astype(jnp.float32)


def _near(grid: Grid, kept: Array | None, window: int, prefix: int) -> Array:
    """Return which tokens lie within ``window`` along each axis, bool [1 or B,1,N,N]; the ``prefix`` sees all."""
    place = jnp.asarray(places(grid))
    place = place[None] if kept is None else place[kept]
    near = (jnp.abs(place[:, :, None] - place[:, None]) <= window).all(axis=-1)
    return jnp.pad(near, ((0, 0), (prefix, 0), (prefix, 0)), constant_values=True)[:, None]
