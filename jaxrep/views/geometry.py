"""Views that move or cover pixels and keep the image's size: flip, translation, rotation, cutout."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.spec import Count, Natural, NonNegative, Share, spec
from jaxrep.views.base import ImageView, random_apply


@spec
class RandomHorizontalFlip(ImageView):
    """Mirror some images left to right."""

    site: ClassVar[str] = "Flip"

    p: Share = 0.5
    """Probability that an image is mirrored."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return random_apply(key, self.p, image[:, ::-1], image)


@spec
class RandomTranslate(ImageView):
    """Translate by whole pixels, down and right by a uniform draw each."""

    site: ClassVar[str] = "Shift"

    pixels: Natural
    """Largest translation in either direction."""
    fill: float = 1.0
    """Value of pixels that move in: 1 is white."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        down, right = jax.random.randint(key, (2,), -self.pixels, self.pixels + 1)
        return translate(image, down, right, self.fill)


@spec
class RandomRotation(ImageView):
    """Rotate about the center by a uniform draw, with bilinear interpolation."""

    site: ClassVar[str] = "Rotate"

    degrees: NonNegative
    """Largest angle in either direction."""
    fill: float = 1.0
    """Value of pixels that move in: 1 is white."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return rotate(image, jax.random.uniform(key, minval=-self.degrees, maxval=self.degrees), self.fill)


@spec
class Cutout(ImageView):
    """Cover a square, its center uniform over the image, so it may stick out (DeVries & Taylor 2017, section 3.2)."""

    site: ClassVar[str] = "CutOut"

    size: Count
    """Side of the square in pixels."""
    fill: float = 0.5
    """Value of covered pixels; the paper uses the mean of the data."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        top, left = jax.random.randint(key, (2,), 0, jnp.array(image.shape[:2])) - self.size // 2
        return cutout(image, top, left, self.size, self.fill)


def translate(image: Float[Array, "H W C"], down: Array, right: Array, fill: float) -> Float[Array, "H W C"]:
    """Return ``out[y, x] = image[y - down, x - right]``, or ``fill`` outside."""
    y, x = jnp.arange(image.shape[0]) - down, jnp.arange(image.shape[1]) - right
    inside = _within(y, image.shape[0])[:, None, None] & _within(x, image.shape[1])[:, None]
    return jnp.where(inside, jnp.roll(jnp.roll(image, down, 0), right, 1), fill)


def rotate(image: Float[Array, "H W C"], degrees: Array, fill: float) -> Float[Array, "H W C"]:
    """Rotate anticlockwise about the center; bilinear, with pixels of value ``fill`` beyond the border."""
    height, width = image.shape[:2]
    sin, cos = jnp.sin(jnp.deg2rad(degrees)), jnp.cos(jnp.deg2rad(degrees))
    y = jnp.arange(height)[:, None] - (height - 1) / 2
    x = jnp.arange(width)[None, :] - (width - 1) / 2
    from_y = cos * y + sin * x + (height - 1) / 2
    from_x = cos * x - sin * y + (width - 1) / 2
    return _bilinear(image, from_y, from_x, fill)


def cutout(image: Float[Array, "H W C"], top: Array, left: Array, size: int, fill: float) -> Float[Array, "H W C"]:
    """Set the square of side ``size`` with upper left corner (top, left) to ``fill``."""
    y, x = jnp.arange(image.shape[0]) - top, jnp.arange(image.shape[1]) - left
    return jnp.where(_within(y, size)[:, None, None] & _within(x, size)[:, None], fill, image)


def _within(index: Array, size: int) -> Array:
    return (index >= 0) & (index < size)


def _bilinear(image: Array, y: Array, x: Array, fill: float) -> Array:
    """Return values at the real coordinates (y, x), both [h,w]; ``fill`` outside of the image."""
    height, width, channels = image.shape
    padded = jnp.pad(image, ((1, 2), (1, 2), (0, 0)), constant_values=fill)
    y, x = jnp.clip(y + 1, 0, height + 1), jnp.clip(x + 1, 0, width + 1)
    top, left = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    down, right = (y - top)[..., None], (x - left)[..., None]
    pixels, stride = padded.reshape(-1, channels), width + 3

    def row(at: Array) -> Array:
        return pixels[at] * (1 - right) + pixels[at + 1] * right

    corner = top * stride + left
    return row(corner) * (1 - down) + row(corner + stride) * down
