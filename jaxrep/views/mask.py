"""Which patches of an image are hidden from an encoder."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxrep.batch import Array, Batch, StepContext, require_fields
from jaxrep.spec import spec
from jaxrep.views.base import View

ATTEMPTS = 32


@spec
class BlockMask(View):
    """Hides rectangles of patches (Bao et al. 2022, BEiT, arXiv:2106.08254, algorithm 1; DINOv2's released code).

    Some of the images are chosen, and for each a share of its patches; rectangles are drawn until so many are hidden,
    never more. Adds ``<of>/masked`` bool [B,N], and the numbers of the hidden patches, ``<of>/masked_index`` int32 [B,M],
    filled up with -1, where M is the largest number there can be.
    """

    patch: int
    """Side of a patch in pixels, that of the encoder's grid."""
    p: float = 0.5
    """Probability that patches of an image are hidden."""
    share: tuple[float, float] = (0.1, 0.5)
    """Range of the share of patches that is hidden, drawn uniformly (DINOv2's code spreads it evenly over a batch)."""
    smallest: int = 4
    """Fewest patches of a rectangle, while so many are left to hide."""
    shape: float = 0.3
    """Height over width is drawn from this number to its inverse, uniformly in the logarithm."""

    def problems(self) -> Iterator[str]:
        if self.patch < 1 or self.smallest < 1:
            yield f"patch and smallest are at least 1, got {self.patch} and {self.smallest}"
        if not 0 <= self.p <= 1:
            yield f"p is a probability, and not {self.p}"
        if not 0 <= self.share[0] <= self.share[1] <= 1:
            yield f"share is a range (low, high) of shares from 0 to 1, and not {self.share}"
        if not 0 < self.shape <= 1:
            yield f"shape is a ratio above 0 and up to 1, and not {self.shape}"

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "BlockMask", self.of)
        height, width = batch[self.of].shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"BlockMask: '{self.of}' of {height} x {width} pixels has no whole patches of {self.patch}"
            )
        rows, columns = height // self.patch, width // self.patch
        masked = jax.vmap(lambda key: self.draw(key, rows, columns).reshape(-1))(ctx.keys("hide"))
        most = max(math.floor(rows * columns * self.share[1]), 1)
        hidden = jax.vmap(lambda mask: jnp.nonzero(mask, size=most, fill_value=-1)[0])(masked)
        return {**batch, f"{self.of}/masked": masked, f"{self.of}/masked_index": hidden.astype(jnp.int32)}

    def draw(self, key: Array, rows: int, columns: int) -> Bool[Array, "rows columns"]:
        """The hidden patches of one image."""
        some, share, blocks = jax.random.split(key, 3)
        wanted = jnp.floor(rows * columns * jax.random.uniform(share, minval=self.share[0], maxval=self.share[1]))
        wanted = jnp.where(jax.random.bernoulli(some, self.p), wanted, 0)

        def attempt(mask: Array, draws: Array) -> tuple[Array, None]:
            left = wanted - mask.sum()
            area = self.smallest + (left - self.smallest) * draws[0]
            ratio = jnp.exp((2 * draws[1] - 1) * math.log(1 / self.shape))
            height, width = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
            top, side = jnp.floor(draws[2] * (rows - height + 1)), jnp.floor(draws[3] * (columns - width + 1))
            y, x = jnp.arange(rows)[:, None] - top, jnp.arange(columns) - side
            block = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            new = (block & ~mask).sum()
            fits = (height < rows) & (width < columns) & (new > 0) & (new <= left)
            return mask | (block & fits), None

        draws = jax.random.uniform(blocks, (ATTEMPTS, 4))
        return jax.lax.scan(attempt, jnp.zeros((rows, columns), bool), draws)[0]
