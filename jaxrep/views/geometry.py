"""Views that move pixels or cover them, at the image's own size: flip, shift, rotation, cut-out."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.spec import spec
from jaxrep.views.base import ImageView, random_apply


@spec
class RandomHorizontalFlip(ImageView):
    """Some images mirrored, left for right."""

    site: ClassVar[str] = "Flip"

    p: float = 0.5
    """Probability that an image is mirrored."""

    def problems(self):
        if not 0 <= self.p <= 1:
            yield f"p is a probability, and not {self.p}"

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return random_apply(key, self.p, image[:, ::-1], image)


@spec
class RandomTranslate(ImageView):
    """Moved by whole pixels, down and right by one uniform draw each; what moves out is lost."""

    site: ClassVar[str] = "Shift"

    pixels: int
    """Largest shift either way."""
    fill: float = 1.0
    """Value of what moves in: 1 is white."""

    def problems(self):
        if self.pixels < 0:
            yield f"pixels is zero or more, and not {self.pixels}"

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        down, right = jax.random.randint(key, (2,), -self.pixels, self.pixels + 1)
        return shift(image, down, right, self.fill)


@spec
class RandomRotation(ImageView):
    """Turned about the center by a uniform draw, interpolated bilinearly."""

    site: ClassVar[str] = "Rotate"

    degrees: float
    """Largest angle either way."""
    fill: float = 1.0
    """Value of what turns in: 1 is white."""

    def problems(self):
        if self.degrees < 0:
            yield f"degrees is zero or more, and not {self.degrees}"

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        degrees = jax.random.uniform(key, minval=-self.degrees, maxval=self.degrees)
        return rotate(image, degrees, self.fill)


@spec
class Cutout(ImageView):
    """A square covered, its center uniform over the image, so it may stick out (DeVries & Taylor 2017, section 3.2)."""

    site: ClassVar[str] = "CutOut"

    size: int
    """Side of the square in pixels."""
    fill: float = 0.5
    """Value of what is covered; the paper takes the data's mean."""

    def problems(self):
        if self.size < 1:
            yield f"size counts pixels, from 1, and is not {self.size}"

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        top, left = jax.random.randint(key, (2,), 0, jnp.array(image.shape[:2])) - self.size // 2
        return cutout(image, top, left, self.size, self.fill)


def shift(image: Float[Array, "H W C"], down: Array, right: Array, fill: float) -> Float[Array, "H W C"]:
    """``out[y, x] = image[y - down, x - right]``, or ``fill`` outside."""
    y, x = jnp.arange(image.shape[0]) - down, jnp.arange(image.shape[1]) - right
    inside = _within(y, image.shape[0])[:, None, None] & _within(x, image.shape[1])[:, None]
    return jnp.where(inside, jnp.roll(jnp.roll(image, down, 0), right, 1), fill)


def rotate(image: Float[Array, "H W C"], degrees: Array, fill: float) -> Float[Array, "H W C"]:
    """Turned anticlockwise about the center; bilinear, and beyond the border pixels of value ``fill``."""
    height, width = image.shape[:2]
    sin, cos = jnp.sin(jnp.deg2rad(degrees)), jnp.cos(jnp.deg2rad(degrees))
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    from_y = cos * y + sin * x + (height - 1) / 2
    from_x = cos * x - sin * y + (width - 1) / 2
    return _bilinear(image, from_y, from_x, fill)


def cutout(image: Float[Array, "H W C"], top: Array, left: Array, size: int, fill: float) -> Float[Array, "H W C"]:
    """``fill`` in the square of side ``size`` whose upper left corner is (top, left)."""
    y, x = jnp.arange(image.shape[0]) - top, jnp.arange(image.shape[1]) - left
    covered = _within(y, size)[:, None, None] & _within(x, size)[:, None]
    return jnp.where(covered, fill, image)


def _within(index: Array, size: int) -> Array:
    return (index >= 0) & (index < size)


def _bilinear(image: Array, y: Array, x: Array, fill: float) -> Array:
    """Values at the real places (y, x), both [h,w]; a frame of ``fill`` stands for all that lies outside."""
    height, width, channels = image.shape
    framed = jnp.pad(image, ((1, 2), (1, 2), (0, 0)), constant_values=fill)
    y, x = jnp.clip(y + 1, 0, height + 1), jnp.clip(x + 1, 0, width + 1)
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    down, right = (y - top)[..., None], (x - left)[..., None]
    pixels, stride = framed.reshape(-1, channels), width + 3

    def row(at: Array) -> Array:
        return pixels[at] * (1 - right) + pixels[at + 1] * right

    corner = top * stride + left
    return row(corner) * (1 - down) + row(corner + stride) * down
