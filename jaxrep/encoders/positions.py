"""Positions of tokens on a grid: fixed sines, learned ones, relative biases, and rotations of queries and keys.

A grid is the number of tokens along each axis: (L,) for a text, (rows, columns) for an image. Tokens are row by row.
"""

import abc
import math
from collections.abc import Iterator, Sequence
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from jaxrep.batch import Array
from jaxrep.encoders.layers import Rotation
from jaxrep.spec import Natural, NonNegative, Positive, Range, spec

Grid = tuple[int, ...]
Factor = Annotated[float, Range(1)]
"""The largest factor of a draw that is uniform in the logarithm, from 1 / factor to factor; 1: no draw."""


def places(grid: Grid) -> np.ndarray:
    """Return the place of every token of a grid along each axis, int32 [N,axes]."""
    return np.indices(grid, np.int32).reshape(len(grid), -1).T


def resize_grid(positions: Array, grid: Grid, to: Grid) -> Array:
    """Resize positions [N,D] of a grid to those of ``to``, by antialiased cubic convolution along each axis."""
    if grid == to:
        return positions
    resized = jax.image.resize(positions.reshape(*grid, -1), (*to, positions.shape[1]), "cubic")
    return resized.reshape(math.prod(to), -1)


def sincos_positions(
    grid: Sequence[int], width: int, *, endpoint: bool = True, widths: Sequence[int] = ()
) -> np.ndarray:
    """Return fixed positions, float32 [N,width]: sine and cosine of the place along each axis, from the last one on.

    Frequencies fall from 1 to 1/10000 (Chen et al. 2021, MoCo v3, arXiv:2104.02057), as in big_vision; without
    ``endpoint`` the next one would be 1/10000, as in the released code of MoCo v3 and MAE.

    Args:
        grid: tokens along each axis.
        width: number of channels. What the axes leave over is zero.
        endpoint: whether the lowest frequency is 1/10000.
        widths: channels of each axis, from the first one on; empty: each has an equal share of the width.

    Raises:
        ValueError: there are widths of another number of axes.
    """
    axes = len(grid)
    if widths and len(widths) != axes:
        raise ValueError(f"sine_widths has {len(widths)} widths, and tokens lie along {axes} axes: give one for each")
    waves = []
    for place, share in zip(reversed(np.indices(grid)), reversed(widths or (width // axes,) * axes), strict=True):
        angle = place.reshape(-1, 1) * 10_000.0 ** -np.linspace(0, 1, share // 2, endpoint=endpoint)
        waves += [np.sin(angle), np.cos(angle)]
    waves = np.concatenate(waves, axis=1)
    return np.pad(waves, ((0, 0), (0, width - waves.shape[1]))).astype(np.float32)


def sine_problems(widths: Sequence[int], width: int) -> Iterator[str]:
    """Yield a sentence for each reason why axes cannot have sines of these widths beside each other in ``width``."""
    if sum(widths) > width:
        yield f"sine_widths = {tuple(widths)} are {sum(widths)} channels together, and the tokens have {width}"
    if any(share % 2 for share in widths):
        yield f"sine_widths = {tuple(widths)} has an odd width, and each wave is a sine and a cosine"


def sines(length: int, width: int) -> Array:
    """Return positions [L,D]: alternating sine and cosine, of wavelengths from 2 pi to 10,000 times that.

    Vaswani et al. 2017, section 3.5.
    """
    rate = jnp.exp(jnp.arange(0, width, 2) * -(jnp.log(10_000.0) / width))
    angle = jnp.arange(length)[:, None] * rate
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=2).reshape(length, -1)[:, :width]


# Relative positions ---------------------------------------------------------------------------------------------------


def relative_rows(grid: Grid) -> int:
    """Return the number of offsets between two tokens of a grid, and three for the learned tokens before them."""
    return math.prod(2 * side - 1 for side in grid) + 3


def relative_index(grid: Grid, prefix: int) -> np.ndarray:
    """Return the row of a table of relative positions for each query and key, int [prefix + N, prefix + N].

    Rows are the offsets (key from query, negated, as in the released code), row by row, then three: from a learned
    token (there are ``prefix`` before the others) to one of the grid, the other way, and among learned tokens (Bao et
    al. 2022, BEiT, arXiv:2106.08254, released code).
    """
    place, sides = places(grid).astype(np.int64), np.array(grid)
    offset = place[:, None] - place + sides - 1
    index = np.ravel_multi_index(tuple(np.moveaxis(offset, -1, 0)), tuple(2 * sides - 1))
    rows = relative_rows(grid)
    index = np.pad(index, ((prefix, 0), (prefix, 0)), constant_values=rows - 1)
    index[:prefix, prefix:], index[prefix:, :prefix] = rows - 3, rows - 2
    return index


def relative_bias(table: Array, index: np.ndarray, kept: Array | None) -> Array:
    """Return biases of attention logits [1 or B,H,N,N] from a table [rows,H] and the rows of all pairs [N,N].

    ``kept`` int32 [B,n]: the tokens that are read, learned ones included; None: all.
    """
    if kept is None:
        return jnp.moveaxis(table[index], -1, 0)[None]
    pairs = jnp.asarray(index)[kept[:, :, None], kept[:, None, :]]
    return jnp.moveaxis(table[pairs], -1, 1)


# Rotary positions -----------------------------------------------------------------------------------------------------


@spec
class Rotary(abc.ABC):
    """Declare rotary positions (Su et al. 2021, arXiv:2104.09864; abstract).

    Attention turns pairs of channels of queries and keys (i and i + d/2 of a head of width d) by angles that grow with
    a token's position, so that their product depends on the difference of positions.
    """

    @property
    def draws(self) -> bool:
        """Return whether training changes the angles at random."""
        return False

    @abc.abstractmethod
    def rotation(self, grid: Grid, width: int, keys: Array | None = None) -> Rotation:
        """Return cosines and sines for the tokens of a grid and a head of ``width`` channels, [1 or B,N,width/2].

        Args:
            grid: how the tokens lie.
            width: channels of a head.
            keys: keys [B] of random changes, one for each row; None: no changes.

        Raises:
            ValueError: the tokens do not lie as the positions need, or the width does not split.
        """


@spec
class SequenceRotary(Rotary):
    """Turn by the place in a sequence: pair i of a head of width d by place / scale / base ** (2 i / d)."""

    base: Positive = 10_000.0
    """Longest wavelength over the shortest one, for wide heads."""
    scale: Positive = 1.0
    """Divisor of places: longer texts than in pretraining fit its range (Chen et al. 2023, arXiv:2306.15595)."""

    def rotation(self, grid, width, keys=None):
        if len(grid) != 1:
            raise ValueError(f"SequenceRotary turns tokens in a row, and these lie on a grid {grid}: take AxialRotary")
        _check_width(width, 2, "SequenceRotary")
        frequency = self.base ** -(np.arange(0, width, 2) / width)
        return _waves(np.arange(grid[0])[:, None] / self.scale * frequency)


@spec
class AxialRotary(Rotary):
    """Turn by the place along each axis of a grid; each axis has an equal share of a head's channels.

    With the defaults, places are the centers of patches between -1 and 1 along each axis, and angles are 2 pi times
    those, over base ** (i / n) for pair i of the n of an axis (Simeoni et al. 2025, DINOv3, arXiv:2508.10104). So an
    image of another size needs no resizing. Training may move the coordinates of each image.
    """

    base: Positive = 100.0
    """Longest wavelength over the shortest one, for wide heads."""
    normalized: bool = True
    """Whether places are coordinates between -1 and 1, or numbers of rows and columns (and angles without 2 pi)."""
    reference: Natural = 0
    """Tokens along each axis to which numbers of rows and columns are scaled, so that images of all sizes span the same
    angles (Fang et al. 2023, EVA-02, arXiv:2303.11331: 16); 0: they are not scaled."""
    shift: NonNegative = 0.0
    """Largest shift of the coordinates of each axis, drawn per image."""
    jitter: Factor = 1.0
    """Largest factor of the coordinates of each axis, drawn per image."""
    rescale: Factor = 1.0
    """Largest factor of the coordinates of all axes, drawn per image."""

    def problems(self) -> Iterator[str]:
        if self.normalized and self.reference:
            yield "reference scales numbers of rows and columns: it needs normalized = False"

    @property
    def draws(self) -> bool:
        return bool(self.shift) or self.jitter > 1 or self.rescale > 1

    def rotation(self, grid, width, keys=None):
        axes = len(grid)
        if axes < 2:
            raise ValueError(
                f"AxialRotary turns tokens on a grid, and these lie in a row of {grid[0]}: take SequenceRotary"
            )
        _check_width(width, 2 * axes, f"AxialRotary on {axes} axes")
        count = width // (2 * axes)
        frequency = self.base ** -(np.arange(count) / count) * (2 * math.pi if self.normalized else 1)
        place = places(grid).astype(np.float64)
        if self.normalized:
            place = (2 * place + 1) / np.array(grid) - 1
        elif self.reference:
            place = place * self.reference / np.array(grid)
        if keys is None:
            return _waves((place[:, :, None] * frequency).reshape(len(place), -1))
        place = jax.vmap(self._moved, (0, None))(keys, jnp.asarray(place, jnp.float32))
        angles = place[..., None] * frequency.astype(np.float32)
        angles = angles.reshape(*angles.shape[:2], -1)
        return jnp.cos(angles), jnp.sin(angles)

    def _moved(self, key: Array, place: Array) -> Array:
        """Return coordinates [N,axes] with a random shift and random factors."""
        shift, jitter, rescale = jax.random.split(key, 3)
        axes = place.shape[1:]
        place = place + jax.random.uniform(shift, axes, minval=-self.shift, maxval=self.shift)
        place = place * _log_uniform(jitter, axes, self.jitter)
        return place * _log_uniform(rescale, (), self.rescale)


def _log_uniform(key: Array, shape: tuple[int, ...], factor: float) -> Array:
    return jnp.exp(jax.random.uniform(key, shape, minval=-math.log(factor), maxval=math.log(factor)))


def _check_width(width: int, multiple: int, who: str) -> None:
    if width % multiple:
        raise ValueError(
            f"{who} needs heads whose width is a multiple of {multiple}, got {width}: change heads or width"
        )


def _waves(angles: np.ndarray) -> Rotation:
    """Return cosines and sines of angles [N,k], float32 [1,N,k], from float64."""
    cos, sin = (jnp.asarray(wave(angles)[None], jnp.float32) for wave in (np.cos, np.sin))
    return cos, sin


def of_kept(rotation: Rotation, kept: Array | None, prefix: int) -> Rotation:
    """Return the rotation of the tokens ``kept`` [B,n] (None: all) behind ``prefix`` tokens that are not turned."""
    if kept is not None:
        rotation = tuple(jnp.take_along_axis(wave, kept[..., None], axis=1) for wave in rotation)  # pyright: ignore
    cos, sin = rotation
    before = ((0, 0), (prefix, 0), (0, 0))
    return jnp.pad(cos, before, constant_values=1), jnp.pad(sin, before)
