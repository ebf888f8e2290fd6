"""Share the fields of the specs of convolutional encoders, and the steps through stem, blocks and head.

Blocks are a list, not stacked and scanned as a transformer's are. On CPU, convolutions inside a loop are slow: with two
cores and five residual blocks, value and gradient take 8.2 s scanned and 0.2 s as a list.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

from jaxrep import mesh
from jaxrep.batch import Array, Field
from jaxrep.encoders.base import DropRate, Encoder, EncoderInputs, EncoderOutput
from jaxrep.encoders.image.convolution import BatchNorm, Norm
from jaxrep.encoders.image.stem import PixelNorm, check_image
from jaxrep.encoders.layers import Precision, compute_dtype, fold_keys
from jaxrep.spec import execution, spec


@spec
class ConvNet(Encoder):
    """Declare a convolutional encoder (abstract): the fields that all of them have."""

    rank: ClassVar[int] = 4

    norm: Norm = BatchNorm()
    """The norm after each convolution; BatchNorm couples the rows of a batch, GroupNorm does not (microbatches)."""
    stochastic_depth: DropRate = 0.0
    """Probability that training drops a row's last residual branch; it rises linearly from 0 at the first block."""
    pixels: PixelNorm = PixelNorm.imagenet()
    """Normalization of the pixels."""
    dtype: Precision = "auto"
    """Type of activations and convolutions; auto: bfloat16 on accelerators, float32 on CPU."""
    remat: bool = execution(False)
    """Whether the backward pass recomputes the inside of each block, so that only the blocks' inputs are kept."""

    @abc.abstractmethod
    def widths(self) -> Iterator[int]:
        """Yield every width to which the norm is applied."""

    def problems(self) -> Iterator[str]:
        yield from self.norm.width_problems(self.widths())


class ConvNetModule(nnx.Module):
    """Map images [B,H,W,C], uint8 or float in [0,1], to features (abstract).

    A concrete module creates ``stem``, ``blocks`` and ``head``. Each is called as ``part(h [B,H,W,C], training)``; a
    block also takes ``keys`` [B] of its stochastic depth.
    """

    stem: Callable[..., Array]
    blocks: nnx.List
    head: Callable[..., Array] | None

    def __init__(self, spec: ConvNet, inputs: Field):
        check_image(inputs, "a convolutional encoder")
        self.spec, self.pixels = spec, spec.pixels

    def __call__(self, inputs: EncoderInputs) -> EncoderOutput:
        """Encode images. ``pooled`` is the mean over space; ``tokens`` is the last feature map, row by row (``map``).

        In training, ``batch_stats`` holds the new running statistics of the batch norms (None without batch norm).

        Raises:
            ValueError: tokens are masked, kept or not valid, or an intermediate is not a block.
        """
        if any(mask is not None for mask in (inputs.valid, inputs.masked, inputs.keep)):
            raise ValueError("a convolutional encoder reads whole images: it takes no valid, masked or kept tokens")
        inputs.check_intermediates(len(self.blocks))
        if not inputs.ctx.training:
            return self._encode(inputs)
        copy = nnx.clone(self)
        output = copy._encode(inputs)
        batch_stats = jax.lax.stop_gradient(nnx.state(copy, nnx.BatchStat))
        return dataclasses.replace(output, batch_stats=batch_stats if jax.tree.leaves(batch_stats) else None)

    def _encode(self, inputs: EncoderInputs) -> EncoderOutput:
        training, keys = inputs.ctx.training, inputs.keys("stochastic_depth", self.spec.stochastic_depth)
        h = self.stem(self.pixels(inputs.x).astype(compute_dtype(self.spec.dtype)), training)
        intermediates, maps = {}, {}
        run = nnx.remat(run_block, static_argnums=2) if self.spec.remat else run_block
        for i, block in enumerate(self.blocks):
            h = mesh.constrain(run(block, h, training, fold_keys(keys, i)))
            if i in inputs.intermediates:
                intermediates[i] = pooled(h)
            if i in (*inputs.intermediate_maps, *inputs.intermediate_tokens):
                maps[i] = h
        h = h if self.head is None else self.head(h, training)
        return EncoderOutput(
            pooled(h),
            _tokens(h),
            intermediates=intermediates,
            intermediate_tokens={i: _tokens(maps[i]) for i in inputs.intermediate_tokens},
            grid=h.shape[1:3],
            intermediate_maps={i: maps[i] for i in inputs.intermediate_maps},
        )


def run_block(block: nnx.Module, h: Array, training: bool, keys: Array | None) -> Array:
    """Call the block, as a plain function for rematerialization."""
    return block(h, training, keys)


def _tokens(h: Array) -> Array:
    return rearrange(h, "b h w d -> b (h w) d")


def pooled(h: Array) -> Array:
    """Return the float32 mean over space, [B,H,W,D] -> [B,D]."""
    return reduce(h.astype(jnp.float32), "b h w d -> b d", "mean")
