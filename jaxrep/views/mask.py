"""The view that draws which patches of an image an encoder masks."""

import math
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxrep.batch import Array, Batch, StepContext, require_fields
from jaxrep.spec import Count, Range, Share, spec
from jaxrep.views.base import View, range_problems

ATTEMPTS = 32


@spec
class BlockMask(View):
    """Mask rectangles of patches (Bao et al. 2022, BEiT, arXiv:2106.08254, algorithm 1; DINOv2's released code).

    It draws some of the images, and for each a share of its patches. Rectangles are drawn until that share is masked,
    and never exceed it. Adds ``<of>/masked`` bool [B,N], and the indices of the masked patches, ``<of>/masked_index``
    int32 [B,M], padded with -1, where M is the largest possible number.
    """

    patch: Count
    """Side of a patch in pixels, as in the encoder."""
    p: Share = 0.5
    """Probability that patches of an image are masked."""
    share: tuple[Share, Share] = (0.1, 0.5)
    """Range of the share of masked patches, drawn uniformly (DINOv2's code spreads it evenly over a batch)."""
    smallest: Count = 4
    """Smallest number of patches of a rectangle, except when fewer remain."""
    shape: Annotated[float, Range(above=0, high=1)] = 0.3
    """Height over width is drawn from this number to its inverse, uniformly in the logarithm."""

    def problems(self) -> Iterator[str]:
        yield from range_problems(share=self.share)

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "BlockMask", self.of)
        height, width = batch[self.of].shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(f"BlockMask: '{self.of}', {height} x {width}, does not split into patches of {self.patch}")
        rows, columns = height // self.patch, width // self.patch
        masked = jax.vmap(lambda key: self.draw(key, rows, columns).reshape(-1))(ctx.keys("hide"))
        count = max(math.floor(rows * columns * self.share[1]), 1)
        index = jax.vmap(lambda mask: jnp.nonzero(mask, size=count, fill_value=-1)[0])(masked)
        return {**batch, f"{self.of}/masked": masked, f"{self.of}/masked_index": index.astype(jnp.int32)}

    def draw(self, key: Array, rows: int, columns: int) -> Bool[Array, "rows columns"]:
        """Draw the masked patches of one image."""
        apply_key, share_key, blocks_key = jax.random.split(key, 3)
        target = jnp.floor(rows * columns * jax.random.uniform(share_key, minval=self.share[0], maxval=self.share[1]))
        target = jnp.where(jax.random.bernoulli(apply_key, self.p), target, 0)

        def attempt(mask: Array, draws: Array) -> tuple[Array, None]:
            left = target - mask.sum()
            area = self.smallest + (left - self.smallest) * draws[0]
            ratio = jnp.exp((2 * draws[1] - 1) * math.log(1 / self.shape))
            height, width = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
            top, side = jnp.floor(draws[2] * (rows - height + 1)), jnp.floor(draws[3] * (columns - width + 1))
            y, x = jnp.arange(rows)[:, None] - top, jnp.arange(columns) - side
            block = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            new = (block & ~mask).sum()
            fits = (height < rows) & (width < columns) & (new > 0) & (new <= left)
            return mask | (block & fits), None

        draws = jax.random.uniform(blocks_key, (ATTEMPTS, 4))
        return jax.lax.scan(attempt, jnp.zeros((rows, columns), bool), draws)[0]
