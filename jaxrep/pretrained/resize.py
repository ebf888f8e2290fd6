"""Learnt positions of another grid: resized by cubic convolution (Keys 1981), as torch's bicubic interpolation does."""

import numpy as np


def resize_positions(
    positions: np.ndarray, grid: tuple[int, int], to: tuple[int, int], *, antialias: bool = False
) -> np.ndarray:
    """Positions [h*w,D] of a grid (h,w) -> [H*W,D] of the grid ``to``, in float32; the same grid is left alone.

    ``antialias`` widens the kernel where the grid shrinks. The kernel's parameter is torch's: -0.75 without, -0.5 with.
    """
    if grid == to:
        return positions
    rows, columns = (cubic_weights(old, new, antialias=antialias) for old, new in zip(grid, to, strict=True))
    x = positions.astype(np.float64).reshape(*grid, -1)
    return np.einsum("yh,hwd,xw->yxd", rows, x, columns, optimize=True).reshape(-1, x.shape[-1]).astype(np.float32)


def cubic_weights(old: int, new: int, *, antialias: bool = False) -> np.ndarray:
    """[new, old]: how much of each old value makes a new one; rows sum to one.

    Pixel centres lie at halves. Beyond the ends the outermost value is repeated, or left out with ``antialias``.
    """
    step = old / new
    stretch = max(step, 1.0) if antialias else 1.0
    centre = (np.arange(new) + 0.5) * step - 0.5
    reach = int(np.ceil(2 * stretch)) + 1
    place = np.floor(centre)[:, None] + np.arange(-reach, reach + 1)
    weight = _keys((place - centre[:, None]) / stretch, -0.5 if antialias else -0.75)
    if antialias:
        weight = np.where((place >= 0) & (place < old), weight, 0)
    found = np.zeros((new, old))
    np.add.at(found, (np.arange(new)[:, None], np.clip(place, 0, old - 1).astype(int)), weight)
    return found / found.sum(1, keepdims=True)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic kernel with parameter a (Keys 1981, Cubic convolution interpolation, equation 15)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
