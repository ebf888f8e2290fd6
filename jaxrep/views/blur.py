"""Blur by a Gaussian of random width (Chen et al. 2020, SimCLR, arXiv:2002.05709, appendix A)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.spec import spec
from jaxrep.views.base import ImageView, random_apply


@spec
class GaussianBlur(ImageView):
    """Some images smoothed by a Gaussian whose standard deviation is drawn uniformly."""

    site: ClassVar[str] = "Blur"

    p: float = 0.5
    """Probability that an image is smoothed."""
    sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the standard deviation in pixels."""
    radius: int = 4
    """Pixels of the kernel on each side of its middle (9 x 9 pixels in all: torchvision's in DINOv2's code)."""

    def problems(self):
        if not 0 <= self.p <= 1:
            yield f"p is a probability, and not {self.p}"
        if not 0 < self.sigma[0] <= self.sigma[1]:
            yield f"sigma is a range (low, high) of numbers above 0, and not {self.sigma}"
        if self.radius < 1:
            yield f"radius counts pixels, from 1, and is not {self.radius}"

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        some, width = jax.random.split(key)
        sigma = jax.random.uniform(width, minval=self.sigma[0], maxval=self.sigma[1])
        return random_apply(some, self.p, blur(image, sigma, self.radius), image)


def blur(image: Float[Array, "H W C"], sigma: Array | float, radius: int) -> Float[Array, "H W C"]:
    """Smoothed along both axes; beyond the border the image is mirrored about its outermost pixels."""
    weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / sigma) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        around = [(radius, radius) if each == axis else (0, 0) for each in range(3)]
        wide, size = jnp.pad(image, around, mode="reflect"), image.shape[axis]
        shifted = (jax.lax.slice_in_dim(wide, at, at + size, axis=axis) for at in range(2 * radius + 1))
        image = sum((weight * part for weight, part in zip(weights, shifted, strict=True)), jnp.zeros_like(image))
    return image
