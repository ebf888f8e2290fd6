"""Cut arrays of any number of axes into patches, and put them together again.

Patches lie row by row, the last axis fastest, and so do the values of a patch, with its channels last: as in the
tokens of a vision transformer.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxrep.batch import Array
from jaxrep.spec import Count

Patch = Count | tuple[Count, ...]
"""The side of a patch along each axis; one number is that of all axes."""


def patch_sides(shape: Sequence[int], patch: Patch, what: str) -> tuple[int, ...]:
    """Return the side of a patch along each axis that is cut, for an array of ``shape`` without B.

    One number cuts all axes but the last one, the channels; an array of one axis has no channels. Several numbers cut
    as many axes, after which the array has an axis of channels or none; no number leaves it whole.

    Raises:
        ValueError: the array has another number of axes.
    """
    axes = max(len(shape) - 1, 1)
    sides = (patch,) * axes if isinstance(patch, int) else tuple(patch or shape[:axes])
    if not sides or len(shape) - len(sides) not in (0, 1):
        raise ValueError(
            f"{what} has {len(shape)} axes, and a patch has {len(sides)} sides: give one for each axis before channels"
        )
    return sides


def patch_grid(shape: Sequence[int], sides: Sequence[int], what: str, parts: str = "patches") -> tuple[int, ...]:
    """Return the number of patches along each axis that is cut.

    Raises:
        ValueError: the sides do not divide the axes.
    """
    axes = shape[: len(sides)]
    if any(size % side for size, side in zip(axes, sides, strict=True)):
        raise ValueError(
            f"{what}, {' x '.join(map(str, axes))}, does not split into {parts} of {' x '.join(map(str, sides))}: "
            "change its size or theirs"
        )
    return tuple(size // side for size, side in zip(axes, sides, strict=True))


def patchify(x: Array, sides: Sequence[int]) -> Array:
    """Cut x [B,*axes,C] or [B,*axes] into patches [B,N,P] of these sides, which divide the axes."""
    axes = len(sides)
    grid = [size // side for size, side in zip(x.shape[1:], sides, strict=False)]
    split = [size for pair in zip(grid, sides, strict=True) for size in pair]
    x = x.reshape(x.shape[0], *split, *(x.shape[1 + axes :] or (1,)))
    places = [1 + 2 * axis for axis in range(axes)]
    x = x.transpose(0, *places, *(place + 1 for place in places), 1 + 2 * axes)
    return x.reshape(x.shape[0], math.prod(grid), -1)


def unpatchify(patches: Array, grid: Sequence[int], sides: Sequence[int]) -> Array:
    """Put patches [B,N,P] of a grid of N together to [B,*axes,C]; invert ``patchify``."""
    axes = len(sides)
    x = patches.reshape(patches.shape[0], *grid, *sides, -1)
    x = x.transpose(0, *(1 + axis + part * axes for axis in range(axes) for part in (0, 1)), 1 + 2 * axes)
    return x.reshape(x.shape[0], *(count * side for count, side in zip(grid, sides, strict=True)), -1)


def take_places(x: Array, index: Array) -> Array:
    """Return the places ``index`` int32 [B,M] of x [B,N,...], [B,M,...]; -1 takes the first one, which is not meant."""
    index = index.reshape(*index.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, jnp.maximum(index, 0), axis=1)
