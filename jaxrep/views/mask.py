"""Views that draw which tokens of an array are hidden: single patches or units of them, or rectangles of an image.

A mask adds ``<of>/masked`` bool [B,N], the hidden tokens, and ``<of>/masked_index`` int32 [B,M], their places in rising
order, padded with -1 where there are fewer. A mask of the same number in each row also adds ``<of>/shown_index`` int32
[B,N-M], the other places.
"""

import math
from collections.abc import Iterator
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxrep.batch import Array, Batch, StepContext, require_fields
from jaxrep.patches import Patch, patch_grid, patch_sides
from jaxrep.spec import Count, Range, Share, spec
from jaxrep.views.base import View, range_problems

ATTEMPTS = 32


@spec
class RandomMask(View):
    """Hide patches of an array, drawn one by one, equally many in each row (He et al. 2022, MAE, arXiv:2111.06377).

    The array has one to three axes and channels. Its patches are the N tokens, row by row; with ``groups`` there are so
    many tokens of each place, one group after the other. Adds the three fields of a mask.
    """

    patch: Patch
    """Side of a patch along each axis of the array, as in the encoder; one number is that of all axes."""
    share: Annotated[float, Range(above=0, below=1)] = 0.75
    """Share of hidden units; their number is rounded up."""
    unit: Patch = 1
    """Patches along each axis of a unit that is hidden or shown as a whole (Xie et al. 2022, SimMIM, section 3.2)."""
    groups: Count = 1
    """Number of tokens at each place, as of a stem of groups of bands."""
    together: bool = False
    """Whether all groups hide the same places; else units of all groups are drawn together."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "RandomMask", self.of)
        shape, what = batch[self.of].shape[1:], f"RandomMask: '{self.of}'"
        grid = patch_grid(shape, patch_sides(shape, self.patch, what), what)
        unit = (self.unit,) * len(grid) if isinstance(self.unit, int) else self.unit
        if len(unit) != len(grid):
            raise ValueError(f"{what} has patches along {len(grid)} axes, and unit is {unit}: give a side for each")
        units = patch_grid(grid, unit, f"{what}: its grid of patches", "units")
        sets = 1 if self.together else self.groups
        drawn = sets * math.prod(units)
        if not 0 < (hidden := hidden_count(drawn, self.share)) < drawn:
            raise ValueError(f"{what}: share = {self.share} hides {hidden} of {drawn} units: hide some, and not all")

        def draw(key: Array) -> Array:
            places = jax.random.permutation(key, drawn)[:hidden]
            mask = jnp.zeros(drawn, bool).at[places].set(True).reshape(sets, *units)
            for axis, side in enumerate(unit, 1):
                mask = jnp.repeat(mask, side, axis)
            return jnp.broadcast_to(mask, (self.groups, *grid)).reshape(-1)

        count = hidden * math.prod(unit) * self.groups // sets
        return {**batch, **mask_fields(self.of, jax.vmap(draw)(ctx.keys("hide")), count, exact=True)}


@spec
class BlockMask(View):
    """Mask rectangles of patches (Bao et al. 2022, BEiT, arXiv:2106.08254, algorithm 1; DINOv2's released code).

    It draws some of the images, and for each a share of its patches. Rectangles are drawn until that share is masked,
    and never exceed it. Adds the fields of a mask, where M is the largest possible number.
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
    exact: bool = False
    """Whether all images have the same number of masked patches: those that rectangles leave are drawn one by one."""

    def problems(self) -> Iterator[str]:
        yield from range_problems(share=self.share)
        if self.exact and (self.p < 1 or self.share[0] != self.share[1]):
            yield f"exact masks one share of all images: set p = 1 and share = ({self.share[1]}, {self.share[1]})"

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "BlockMask", self.of)
        what = f"BlockMask: '{self.of}'"
        rows, columns = patch_grid(batch[self.of].shape[1:3], (self.patch, self.patch), what)
        tokens = rows * columns
        count = hidden_count(tokens, self.share[1]) if self.exact else max(math.floor(tokens * self.share[1]), 1)
        if self.exact and not 0 < count < tokens:
            raise ValueError(f"{what}: share = {self.share} hides {count} of {tokens} patches: hide some, and not all")
        masked = jax.vmap(lambda key: self.draw(key, rows, columns, count).reshape(-1))(ctx.keys("hide"))
        return {**batch, **mask_fields(self.of, masked, count, exact=self.exact)}

    def draw(self, key: Array, rows: int, columns: int, count: int) -> Bool[Array, "rows columns"]:
        """Draw the masked patches of one image, ``count`` of them if ``exact``."""
        first_key, share_key, blocks_key = jax.random.split(key, 3)
        if self.exact:
            mask = self._blocks(blocks_key, rows, columns, count)
            order = jnp.where(mask.reshape(-1), 1.0, jax.random.uniform(first_key, (mask.size,)))
            places = jax.lax.top_k(order, count)[1]
            return jnp.zeros(mask.size, bool).at[places].set(True).reshape(rows, columns)
        target = jnp.floor(rows * columns * jax.random.uniform(share_key, minval=self.share[0], maxval=self.share[1]))
        target = jnp.where(jax.random.bernoulli(first_key, self.p), target, 0)
        return self._blocks(blocks_key, rows, columns, target)

    def _blocks(self, key: Array, rows: int, columns: int, target: Array | int) -> Bool[Array, "rows columns"]:
        """Draw rectangles that together have at most ``target`` patches."""

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

        draws = jax.random.uniform(key, (ATTEMPTS, 4))
        return jax.lax.scan(attempt, jnp.zeros((rows, columns), bool), draws)[0]


def hidden_count(tokens: int, share: float) -> int:
    """Return the number of hidden tokens, rounded up but for the rounding of the product."""
    return math.ceil(tokens * share - 1e-9)


def mask_fields(of: str, masked: Bool[Array, "B N"], count: int, *, exact: bool) -> dict[str, Array]:
    """Return the fields of a mask that hides ``count`` tokens of each row, or at most as many if not ``exact``."""

    def places(mask: Array, count: int) -> Array:
        index = jax.vmap(lambda row: jnp.nonzero(row, size=count, fill_value=-1)[0])(mask)
        return index.astype(jnp.int32)

    shown = {f"{of}/shown_index": places(~masked, masked.shape[1] - count)} if exact else {}
    return {f"{of}/masked": masked, f"{of}/masked_index": places(masked, count), **shown}
