"""What convolutional encoders share: the fields of their specs, and the way of an image through stem, blocks, head.

Blocks are a plain list, not stacked and scanned as a transformer's are: on CPU, convolutions inside a loop are slow
(two cores, five residual blocks, value and gradient: 8.2 s scanned, 0.2 s as a list).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar, TypeVar

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import INFERENCE, Array, Field, StepContext
from jaxrep.encoders.base import Encoder, EncoderOutput
from jaxrep.encoders.image.convolution import BatchNorm, Norm
from jaxrep.encoders.image.stem import PixelNorm
from jaxrep.encoders.layers import Precision, compute_dtype, fold_keys
from jaxrep.spec import execution, spec

M = TypeVar("M", bound=nnx.Module)


@spec
class ConvNet(Encoder):
    """Abstract: the fields of every convolutional encoder."""

    rank: ClassVar[int] = 4

    norm: Norm = BatchNorm()
    """What follows each convolution; BatchNorm couples the rows of a batch, GroupNorm does not (microbatches)."""
    stochastic_depth: float = 0.0
    """Share of rows for which the last residual branch is left out in training; linear from 0 at the first block."""
    pixels: PixelNorm = PixelNorm.imagenet()
    """Normalization of the pixels."""
    dtype: Precision = "auto"
    """Type of activations and convolutions; auto: bfloat16 on accelerators, float32 on CPU."""
    remat: bool = execution(False)
    """The backward pass computes the inside of each block again, so that only blocks' inputs are kept."""

    def widths(self) -> Iterator[int]:
        """Every width that the norm meets."""
        raise TypeError(f"{type(self).__name__} does not say its widths")

    def problems(self) -> Iterator[str]:
        if not 0 <= self.stochastic_depth < 1:
            yield f"stochastic_depth is {self.stochastic_depth}: it is a share from 0 to below 1"
        yield from self.norm.misfits(self.widths())


class ConvNetModule(nnx.Module):
    """Abstract: images [B,H,W,C], uint8 or float in [0,1] -> features. A concrete one makes stem, blocks and head.

    Each is called as ``part(h [B,H,W,C], training)``; a block takes ``keys`` [B] too (draws of its stochastic depth).
    """

    dtype: Precision
    stem: Callable[..., Array]
    blocks: nnx.List
    head: Callable[..., Array] | None

    def __init__(self, spec: ConvNet, inputs: Field):
        if len(inputs.shape) != 3:
            raise ValueError(
                f"a convolutional encoder reads images of shape (H, W, C), and its input has shape {inputs.shape}"
            )
        self.stochastic_depth, self.pixels = spec.stochastic_depth, spec.pixels
        self.dtype, self.remat = spec.dtype, spec.remat

    def __call__(
        self,
        x: Array,
        *,
        valid: Array | None = None,
        masked: Array | None = None,
        intermediates: tuple[int, ...] = (),
        ctx: StepContext = INFERENCE,
    ) -> EncoderOutput:
        """``pooled`` is the mean over space; ``tokens`` the last feature map, row by row; ``taps`` count blocks from 0.

        In training, ``statistics`` holds the new running statistics of the batch norms (None without batch norm).
        """
        if valid is not None or masked is not None:
            raise ValueError("a convolutional encoder reads whole images: it takes neither valid nor hidden tokens")
        if wrong := [tap for tap in intermediates if not 0 <= tap < len(self.blocks)]:
            raise ValueError(
                f"intermediates {wrong} are not blocks of an encoder that counts them 0 to {len(self.blocks) - 1}"
            )
        if not ctx.training:
            return self._encode(x, intermediates, ctx)
        encoded, batch_stats = recorded(self, lambda module: module._encode(x, intermediates, ctx))
        return dataclasses.replace(encoded, batch_stats=batch_stats)

    def _encode(self, x: Array, intermediates: tuple[int, ...], ctx: StepContext) -> EncoderOutput:
        keys = ctx.keys("stochastic_depth") if ctx.training and self.stochastic_depth else None
        h = self.stem(self.pixels(x).astype(compute_dtype(self.dtype)), ctx.training)
        read = {}
        run = nnx.remat(run_block, static_argnums=2) if self.remat else run_block
        for i, block in enumerate(self.blocks):
            h = mesh.constrain(run(block, h, ctx.training, fold_keys(keys, i)))
            if i in intermediates:
                read[i] = pooled(h)
        h = h if self.head is None else self.head(h, ctx.training)
        return EncoderOutput(pooled=pooled(h), tokens=rearrange(h, "b h w d -> b (h w) d"), intermediates=read)


def run_block(block: nnx.Module, h: Array, training: bool, keys: Array | None) -> Array:
    """The block as a plain function, for rematerialization."""
    return block(h, training, keys)


def pooled(h: Array) -> Array:
    """[B,H,W,D] -> [B,D]: the mean over space, in float32."""
    return reduce(h.astype(jnp.float32), "b h w d -> b d", "mean")


def recorded(module: M, run: Callable[[M], EncoderOutput]) -> tuple[EncoderOutput, nnx.State | None]:
    """``run(copy of module)``, and the batch statistics that the copy then holds (None without any); no gradient."""
    copy = nnx.clone(module)
    encoded = run(copy)
    batch_stats = nnx.state(copy, nnx.BatchStat)
    return encoded, jax.lax.stop_gradient(batch_stats) if jax.tree.leaves(batch_stats) else None
