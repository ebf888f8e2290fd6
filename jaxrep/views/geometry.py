"""Views that crop an image (at random and resized, or CLIP's square), resize it, and that move or cover its pixels.

Resizing is separable, so it is two small matrix products with weights computed per image. That needs no gather, which
is slow on TPU, and costs the same for any box and size.
"""

import math
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array, Batch, StepContext, require_fields
from jaxrep.spec import Count, Natural, NonNegative, Positive, Range, Share, spec
from jaxrep.views.base import ImageView, View, inner_box, random_apply, range_problems, to_float

ATTEMPTS = 10
Area = Annotated[float, Range(above=0, high=1)]


@spec
class Crop(ImageView):
    """Declare a view that crops an image (abstract)."""

    tell_box: bool = False
    """Whether to add ``<of>/box``, float32 [B,4] or [B,V,4]: left, top, right and bottom of what the image shows.

    They are shares of the picture, as it was before its first crop that tells; a mirrored image has left > right.
    """

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, type(self).__name__, self.of)
        if self.tell_box and f"{self.of}/box" not in batch:
            whole = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), (*batch[self.of].shape[:-3], 4))
            batch = {**batch, f"{self.of}/box": whole}
        return super().__call__(batch, ctx)


@spec
class RandomResizedCrop(Crop):
    """Resize a box of random area and shape to a square (Szegedy et al. 2015, Going deeper with convolutions, 6).

    Boxes are drawn as torchvision's ``RandomResizedCrop`` draws them: the first of ten attempts that fits, else the
    largest central box of an allowed shape.
    """

    site: ClassVar[str] = "RandomResizedCrop"

    size: Count
    """Side of the result in pixels."""
    scale: tuple[Area, Area] = (0.08, 1.0)
    """Range of the box's area as a share of the image's."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Range of the box's width over its height, drawn uniformly in the logarithm."""

    def problems(self):
        yield from range_problems(scale=self.scale, ratio=self.ratio)

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "size size C"]:
        top, left, height, width = self.box(key, image.shape[0], image.shape[1])
        return resize(image, self.size, top, left, height, width)

    def shown(self, key: Array, box: Float[Array, "4"], *, size: tuple[int, int]) -> Float[Array, "4"]:
        top, left, height, width = self.box(key, *size)
        return inner_box(box, left / size[1], top / size[0], (left + width) / size[1], (top + height) / size[0])

    def box(self, key: Array, image_height: int, image_width: int) -> tuple[Array, Array, Array, Array]:
        """Return the upper left corner, height and width of a random box, in whole pixels."""
        area, shape, down, right = jax.random.uniform(key, (4 * ATTEMPTS,)).reshape(4, ATTEMPTS)
        area = image_height * image_width * (self.scale[0] + area * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = jnp.exp(low + shape * (high - low))
        heights, widths = jnp.round(jnp.sqrt(area / ratio)), jnp.round(jnp.sqrt(area * ratio))
        fits = (heights >= 1) & (heights <= image_height) & (widths >= 1) & (widths <= image_width)
        first = jnp.argmax(fits)
        height = jnp.where(fits[first], heights[first], min(image_height, round(image_width / self.ratio[0])))
        width = jnp.where(fits[first], widths[first], min(image_width, round(image_height * self.ratio[1])))
        top = jnp.where(fits[first], jnp.floor(down[first] * (image_height - height + 1)), (image_height - height) // 2)
        left = jnp.where(fits[first], jnp.floor(right[first] * (image_width - width + 1)), (image_width - width) // 2)
        return top, left, height, width


@spec
class RandomSquareCrop(Crop):
    """Crop a square at a random place, without resizing: CLIP's only augmentation (Radford et al. 2021, 2.4)."""

    site: ClassVar[str] = "RandomSquareCrop"

    size: Count | None = None
    """Side of the square in pixels; None: the image's shorter side."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "size size C"]:
        (top, left), side = self.place(key, image.shape[:2])
        return jax.lax.dynamic_slice(image, (top, left, 0), (side, side, image.shape[2]))

    def shown(self, key: Array, box: Float[Array, "4"], *, size: tuple[int, int]) -> Float[Array, "4"]:
        (top, left), side = self.place(key, size)
        return inner_box(box, left / size[1], top / size[0], (left + side) / size[1], (top + side) / size[0])

    def place(self, key: Array, size: tuple[int, ...]) -> tuple[Array, int]:
        """Return the upper left corner (top, left) of a square at random, and its side, in pixels."""
        side = self.size or min(size)
        if side > min(size):
            raise ValueError(f"a square crop of {side} pixels does not fit '{self.of}' of {size}: resize it first")
        return jax.random.randint(key, (2,), 0, jnp.array(size) - side + 1), side


@spec
class RandomHorizontalFlip(ImageView):
    """Mirror some images left to right."""

    site: ClassVar[str] = "Flip"

    p: Share = 0.5
    """Probability that an image is mirrored."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return random_apply(key, self.p, image[:, ::-1], image)

    def shown(self, key: Array, box: Float[Array, "4"], *, size: tuple[int, int]) -> Float[Array, "4"]:
        return random_apply(key, self.p, box[jnp.array([2, 1, 0, 3])], box)


@spec
class RandomTranslate(ImageView):
    """Translate by whole pixels, down and right by a uniform draw each."""

    site: ClassVar[str] = "Shift"

    pixels: Natural
    """Largest translation in either direction."""
    fill: Share = 1.0
    """Value of pixels that move in: 1 is white."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        down, right = self.offsets(key)
        return translate(image, down, right, self.fill)

    def shown(self, key: Array, box: Float[Array, "4"], *, size: tuple[int, int]) -> Float[Array, "4"]:
        down, right = (offset / pixels for offset, pixels in zip(self.offsets(key), size, strict=True))
        return inner_box(box, -right, -down, 1 - right, 1 - down)

    def offsets(self, key: Array) -> Array:
        """Return how far the image moves down and to the right, in pixels."""
        return jax.random.randint(key, (2,), -self.pixels, self.pixels + 1)


@spec
class RandomRotation(ImageView):
    """Rotate about the center by a uniform draw, with bilinear interpolation."""

    site: ClassVar[str] = "Rotate"

    degrees: NonNegative
    """Largest angle in either direction."""
    fill: Share = 1.0
    """Value of pixels that move in: 1 is white."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return rotate(image, jax.random.uniform(key, minval=-self.degrees, maxval=self.degrees), self.fill)

    def shown(self, key: Array, box: Float[Array, "4"], *, size: tuple[int, int]) -> Float[Array, "4"]:
        raise ValueError(f"what a rotated image shows is no box: rotate '{self.of}' before the crop that tells its box")


@spec
class Cutout(ImageView):
    """Cover a square, its center uniform over the image, so it may stick out (DeVries & Taylor 2017, section 3.2)."""

    site: ClassVar[str] = "CutOut"

    size: Count
    """Side of the square in pixels."""
    fill: Share = 0.5
    """Value of covered pixels; the paper uses the mean of the data."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        top, left = jax.random.randint(key, (2,), 0, jnp.array(image.shape[:2])) - self.size // 2
        return cutout(image, top, left, self.size, self.fill)


@spec
class Resize(View):
    """Resize images, bilinearly, in place or as a new field, which gets their boxes too. Nothing is drawn."""

    size: Count | tuple[Count, Count]
    """Height and width of the result in pixels; one number is that of both."""
    out: str = ""
    """Name of the new field; empty: the images themselves are resized."""
    antialias: bool = True
    """Whether images that shrink are smoothed, as by Pillow. Without it, half the size is the mean of 2 x 2 pixels."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        require_fields(batch, "Resize", self.of)
        images, out = to_float(batch[self.of]), self.out or self.of
        if images.ndim not in (4, 5):
            raise ValueError(f"'{self.of}' has shape {images.shape}, where a view expects [B,H,W,C] or [B,V,H,W,C]")
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        shape = (*images.shape[:-3], *size, images.shape[-1])
        resized = {out: jax.image.resize(images, shape, "linear", antialias=self.antialias)}
        box = {f"{out}/box": batch[f"{self.of}/box"]} if f"{self.of}/box" in batch else {}
        return {**batch, **resized, **box}


def resize(
    image: Float[Array, "H W C"], size: int, top: Array, left: Array, height: Array, width: Array
) -> Float[Array, "size size C"]:
    """Resize a box of ``image`` to a square as Pillow resizes the cropped box: bilinear with antialiasing."""
    rows = bilinear_weights(size, image.shape[0], top, height)
    columns = bilinear_weights(size, image.shape[1], left, width)
    return jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision=jax.lax.Precision.HIGHEST)


def bilinear_weights(size: int, pixels: int, start: Array, extent: Array) -> Float[Array, "size pixels"]:
    """Return weights that map pixels ``start`` to ``start + extent`` of an axis to ``size`` new ones; rows sum to one.

    The weights are a triangle about each new pixel's center. It extends one old pixel to either side, or one new pixel
    if the axis shrinks.
    """
    step = extent / size
    center = start + (jnp.arange(size)[:, None] + 0.5) * step
    place = jnp.arange(pixels) + 0.5
    weights = jnp.maximum(1 - jnp.abs(place - center) / jnp.maximum(step, 1), 0)
    weights = jnp.where((place > start) & (place < start + extent), weights, 0)
    return weights / weights.sum(1, keepdims=True)


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
