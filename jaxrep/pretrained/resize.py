"""Resize learned positions and patch kernels to another image size, patch size or text length."""

from collections.abc import Sequence

import numpy as np


def resize_positions(
    positions: np.ndarray, grid: Sequence[int], to: Sequence[int], *, antialias: bool = False
) -> np.ndarray:
    """Resize positions [N,D] of a grid of any axes to those of the grid ``to``, float32; an equal grid changes nothing.

    By cubic convolution (Keys 1981), as torch's bicubic interpolation: its parameter is -0.75, or -0.5 with
    ``antialias``, which also widens the kernel where the grid shrinks.
    """
    if grid == to:
        return positions
    x = positions.astype(np.float64).reshape(*grid, -1)
    for axis, (old, new) in enumerate(zip(grid, to, strict=True)):
        if old != new:
            weights = cubic_weights(old, new, antialias=antialias)
            x = np.moveaxis(np.tensordot(weights, x, (1, axis)), 0, axis)
    return x.reshape(-1, x.shape[-1]).astype(np.float32)


def resize_kernel(kernel: np.ndarray, patch: int, to: int, *, pseudo_inverse: bool = True) -> np.ndarray:
    """Resize the kernel [patch*patch*C,D] of square patches to [to*to*C,D], float32; an equal size changes nothing.

    With ``pseudo_inverse``, tokens of bilinearly resized patches are nearest to those of the old kernel, and equal if
    patches grow (Beyer et al. 2022, FlexiViT, arXiv:2212.08013, section 3.4). Without it, the kernel is resized as an
    image is.
    """
    if patch == to:
        return kernel
    weights = linear_weights(patch, to)
    if pseudo_inverse:
        weights = np.linalg.pinv(weights.T)
    x = kernel.astype(np.float64).reshape(patch, patch, -1, kernel.shape[1])
    resized = np.einsum("yp,pqcd,xq->yxcd", weights, x, weights, optimize=True)
    return resized.reshape(-1, kernel.shape[1]).astype(np.float32)


def stretch_positions(positions: np.ndarray, length: int, keep: int) -> np.ndarray:
    """Stretch positions [L,D] of a text to [length,D], float32; the first ``keep``, which are well trained, stay.

    New positions are linear mixtures of two neighbors; beyond the last one the line through the last two continues.
    From 77 to 248 with 20 kept, each step becomes four (Zhang et al. 2024, Long-CLIP, arXiv:2403.15378, section 3.2).

    Raises:
        ValueError: fewer than two positions would be stretched, or the length does not grow.
    """
    old = len(positions)
    if not 0 <= keep <= old - 2 or length <= old:
        raise ValueError(f"{old} positions of which the first {keep} stay cannot be stretched to {length}")
    places = np.arange(length, dtype=np.float64)
    places[keep:] = keep + (places[keep:] - keep) * (old - keep) / (length - keep)
    left = np.minimum(places.astype(int), old - 2)
    fraction = (places - left)[:, None]
    x = positions.astype(np.float64)
    return ((1 - fraction) * x[left] + fraction * x[left + 1]).astype(np.float32)


def linear_weights(old: int, new: int) -> np.ndarray:
    """Return [new, old]: the weight of each old value in each new one, linear; pixel centers are at halves."""
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(place[:, None] - np.arange(old)), 0)


def cubic_weights(old: int, new: int, *, antialias: bool = False) -> np.ndarray:
    """Return [new, old]: the weight of each old value in each new one; rows sum to one, pixel centers are at halves.

    Beyond the ends the outermost value is repeated, or left out with ``antialias``.
    """
    step = old / new
    stretch = max(step, 1.0) if antialias else 1.0
    center = (np.arange(new) + 0.5) * step - 0.5
    reach = int(np.ceil(2 * stretch)) + 1
    place = np.floor(center)[:, None] + np.arange(-reach, reach + 1)
    weight = _keys((place - center[:, None]) / stretch, -0.5 if antialias else -0.75)
    if antialias:
        weight = np.where((place >= 0) & (place < old), weight, 0)
    weights = np.zeros((new, old))
    np.add.at(weights, (np.arange(new)[:, None], np.clip(place, 0, old - 1).astype(int)), weight)
    return weights / weights.sum(1, keepdims=True)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Return the cubic kernel with parameter a (Keys 1981, Cubic convolution interpolation, equation 15)."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
