"""Parameters of another resolution: learned positions, resized by cubic convolution (Keys 1981) as torch's bicubic
interpolation does, and the kernels of patches."""

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


def resize_kernel(kernel: np.ndarray, patch: int, to: int, *, pseudo_inverse: bool = True) -> np.ndarray:
    """The kernel [patch*patch*C,D] of square patches -> [to*to*C,D], in float32; the same size is left alone.

    ``pseudo_inverse``: the kernel whose tokens of bilinearly resized patches are nearest to those of the old one, and
    equal where patches grow (Beyer et al. 2022, FlexiViT, arXiv:2212.08013, section 3.4). Else resized as a picture is.
    """
    if patch == to:
        return kernel
    weights = linear_weights(patch, to)
    if pseudo_inverse:
        weights = np.linalg.pinv(weights.T)
    x = kernel.astype(np.float64).reshape(patch, patch, -1, kernel.shape[1])
    resized = np.einsum("yp,pqcd,xq->yxcd", weights, x, weights, optimize=True)
    return resized.reshape(-1, kernel.shape[1]).astype(np.float32)


def linear_weights(old: int, new: int) -> np.ndarray:
    """[new, old]: how much of each old value makes a new one, linearly; pixel centers lie at halves."""
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0)


def cubic_weights(old: int, new: int, *, antialias: bool = False) -> np.ndarray:
    """[new, old]: how much of each old value makes a new one; rows sum to one.

    Pixel centers lie at halves. Beyond the ends the outermost value is repeated, or left out with ``antialias``.
    """
    step = old / new
    stretch = max(step, 1.0) if antialias else 1.0
    center = (np.arange(new) + 0.5) * step - 0.5
    reach = int(np.ceil(2 * stretch)) + 1
    place = np.floor(center)[:, None] + np.arange(-reach, reach + 1)
    weight = _keys((place - center[:, None]) / stretch, -0.5 if antialias else -0.75)
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
