"""Views that change the values of pixels: jitter, gray, blur (SimCLR, arXiv:2002.05709, appendix A), solarization."""

from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.spec import NonNegative, Positive, Range, Share, spec
from jaxrep.views.base import ImageView, random_apply, range_problems

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in ITU-R BT.601's luma."""


@spec
class ColorJitter(ImageView):
    """Change brightness, contrast, saturation and hue, in this order, by a factor each.

    The formulae are those of torchvision's ``ColorJitter``, which shuffles the order; a fixed one costs a quarter and
    keeps the whole jitter one fused loop. Changes of size zero are skipped.
    """

    site: ClassVar[str] = "ColourJitter"

    brightness: NonNegative = 0.0
    """Largest relative change b: the image is multiplied by a factor drawn from [max(0, 1 - b), 1 + b]."""
    contrast: NonNegative = 0.0
    """Largest relative change of the distance to the image's mean gray."""
    saturation: NonNegative = 0.0
    """Largest relative change of the distance to the pixel's gray."""
    hue: Annotated[float, Range(0, 0.5)] = 0.0
    """Largest rotation of the hue, in turns."""
    p: Share = 1.0
    """Probability that an image is changed at all."""

    def augment(self, key: Array, image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        changed = self.jitter(key, image)
        return changed if self.p == 1 else random_apply(jax.random.fold_in(key, 0), self.p, changed, image)

    def jitter(self, key: Array, image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        """Return the image, changed by the four factors that ``key`` draws."""
        draws = jax.random.uniform(key, (4,), minval=-1.0)
        if self.brightness:
            image = brighten(image, _factor(draws[0], self.brightness))
        if self.contrast:
            image = stretch(image, _factor(draws[1], self.contrast))
        if self.saturation:
            image = saturate(image, _factor(draws[2], self.saturation))
        if self.hue:
            image = rotate_hue(image, draws[3] * self.hue)
        return image


@spec
class Grayscale(ImageView):
    """Convert some images to gray, with three equal channels."""

    site: ClassVar[str] = "Grey"

    p: Share = 0.2
    """Probability that an image becomes gray."""

    def augment(self, key: Array, image: Float[Array, "H W 3"]) -> Float[Array, "H W 3"]:
        return random_apply(key, self.p, jnp.broadcast_to(luma(image), image.shape), image)


@spec
class Solarize(ImageView):
    """Invert the bright values of some images (Grill et al. 2020, BYOL, arXiv:2006.07733, appendix B)."""

    site: ClassVar[str] = "Solarise"

    p: Share = 0.2
    """Probability that an image is solarized."""
    threshold: Share = 0.5
    """Smallest value that is inverted."""

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        return random_apply(key, self.p, jnp.where(image >= self.threshold, 1 - image, image), image)


@spec
class GaussianBlur(ImageView):
    """Blur some images by a Gaussian whose standard deviation is drawn uniformly."""

    site: ClassVar[str] = "Blur"

    p: Share = 0.5
    """Probability that an image is blurred."""
    sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Range of the standard deviation in pixels."""
    radius: Annotated[int, Range(1, 1_000)] = 4
    """Pixels of the kernel on each side of its center (4: 9 x 9 pixels, as torchvision's in DINOv2's code)."""

    def problems(self):
        yield from range_problems(sigma=self.sigma)

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        apply_key, sigma_key = jax.random.split(key)
        sigma = jax.random.uniform(sigma_key, minval=self.sigma[0], maxval=self.sigma[1])
        return random_apply(apply_key, self.p, blur(image, sigma, self.radius), image)


def _factor(draw: Array, change: float) -> Array:
    """Map a uniform draw from [-1, 1] to a factor from [max(0, 1 - change), 1 + change]."""
    low = max(0.0, 1 - change)
    return low + (draw + 1) / 2 * (1 + change - low)


def luma(image: Float[Array, "*n 3"]) -> Float[Array, "*n 1"]:
    """Return the gray of each pixel (ITU-R BT.601)."""
    if image.shape[-1] != 3:
        raise ValueError(f"an image of shape {image.shape} has {image.shape[-1]} channels, where colors need 3")
    red, green, blue = (weight * image[..., i, None] for i, weight in enumerate(LUMA))
    return red + green + blue


def brighten(image: Float[Array, "*n C"], factor: Array) -> Float[Array, "*n C"]:
    """Return image times factor, clipped."""
    return jnp.clip(image * factor, 0, 1)


def stretch(image: Float[Array, "H W 3"], factor: Array) -> Float[Array, "H W 3"]:
    """Change contrast: multiply the distance to the image's mean gray by factor, and clip."""
    mean = luma(image.mean((0, 1)))
    return jnp.clip(mean + (image - mean) * factor, 0, 1)


def saturate(image: Float[Array, "*n 3"], factor: Array) -> Float[Array, "*n 3"]:
    """Change saturation: multiply the distance to each pixel's gray by factor, and clip."""
    gray = luma(image)
    return jnp.clip(gray + (image - gray) * factor, 0, 1)


def rotate_hue(image: Float[Array, "*n 3"], turns: Array) -> Float[Array, "*n 3"]:
    """Rotate the hue by ``turns`` at constant HSV value and saturation (Smith 1978, Color gamut)."""
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value, low = image.max(-1), image.min(-1)
    chroma = value - low
    divisor = jnp.where(chroma > 0, chroma, 1)
    # Compare channels with each other, not with the maximum: a compiler may recompute and round it differently.
    sixths = jnp.select(
        [(red >= green) & (red >= blue), green >= blue],
        [(green - blue) / divisor, 2 + (blue - red) / divisor],
        4 + (red - green) / divisor,
    )
    sixths = sixths + 6 * turns
    # Channel n of the pure hue falls from value to low as the hue moves two to three sixths away from the channel's.
    distance = [n + sixths - 6 * jnp.floor((n + sixths) / 6) for n in (5, 3, 1)]
    return jnp.stack([value - chroma * jnp.clip(jnp.minimum(d, 4 - d), 0, 1) for d in distance], -1)


def blur(image: Float[Array, "H W C"], sigma: Array | float, radius: int) -> Float[Array, "H W C"]:
    """Blur along both axes; beyond the border the image is mirrored about its outermost pixels."""
    weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        padding = [(radius, radius) if other == axis else (0, 0) for other in range(3)]
        padded, size = jnp.pad(image, padding, mode="reflect"), image.shape[axis]
        shifted = (jax.lax.slice_in_dim(padded, at, at + size, axis=axis) for at in range(2 * radius + 1))
        image = sum((weight * part for weight, part in zip(weights, shifted, strict=True)), jnp.zeros_like(image))
    return image
