"""Gaussian blur of random width (Chen et al. 2020, SimCLR, arXiv:2002.05709, appendix A)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxrep.batch import Array
from jaxrep.spec import Count, Positive, Share, spec
from jaxrep.views.base import ImageView, random_apply, range_problems


@spec
class GaussianBlur(ImageView):
    """Blur some images by a Gaussian whose standard deviation is drawn uniformly."""

    site: ClassVar[str] = "Blur"

    p: Share = 0.5
    """Probability that an image is blurred."""
    sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Range of the standard deviation in pixels."""
    radius: Count = 4
    """Pixels of the kernel on each side of its center (4: 9 x 9 pixels, as torchvision's in DINOv2's code)."""

    def problems(self):
        yield from range_problems(sigma=self.sigma)

    def augment(self, key: Array, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        apply_key, sigma_key = jax.random.split(key)
        sigma = jax.random.uniform(sigma_key, minval=self.sigma[0], maxval=self.sigma[1])
        return random_apply(apply_key, self.p, blur(image, sigma, self.radius), image)


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
