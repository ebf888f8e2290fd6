"""Color views equal torchvision's formulae, written out in NumPy and Python's colorsys."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from jaxrep.views.color import ColorJitter, Grayscale, brighten, luma, rotate_hue, saturate, stretch

PICTURE = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
IMAGE = PICTURE.astype(np.float32) / 255
FLOAT32 = 1e-6  # a few roundings of numbers up to one


def pillow(enhance, factor):
    return np.asarray(enhance(Image.fromarray(PICTURE)).enhance(factor), np.float64) / 255


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(brighten, ImageEnhance.Brightness), (stretch, ImageEnhance.Contrast), (saturate, ImageEnhance.Color)],
)
def test_brightness_contrast_and_saturation_equal_pillow(ours, theirs, factor):
    # Pillow rounds the grey (by half a level, more where the factor stretches it) and the result to whole levels.
    np.testing.assert_allclose(jax.jit(ours)(IMAGE, factor), pillow(theirs, factor), atol=2.01 / 255)


def test_contrast_and_saturation_equal_their_equations():
    image = IMAGE.astype(np.float64)
    grey = image @ [0.299, 0.587, 0.114]
    expected = np.clip(grey.mean() + 1.3 * (image - grey.mean()), 0, 1)
    np.testing.assert_allclose(jax.jit(stretch)(IMAGE, 1.3), expected, atol=FLOAT32)
    expected = np.clip(grey[..., None] + 1.3 * (image - grey[..., None]), 0, 1)
    np.testing.assert_allclose(jax.jit(saturate)(IMAGE, 1.3), expected, atol=FLOAT32)


@pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.25, 0.5])
def test_hue_equals_colorsys(turns):
    corners = np.array(
        [[[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]], np.float32
    )
    image = np.concatenate([IMAGE, corners])
    expected = np.empty(image.shape)
    for at in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[at].astype(float))
        expected[at] = colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)
    np.testing.assert_allclose(jax.jit(rotate_hue)(image, turns), expected, atol=5e-6)  # hues reach 11 sixths


def test_jitter_composes_its_parts():
    view = ColorJitter(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)

    def parts(key, image):
        draws = jax.random.uniform(key, (4,), minval=-1.0)
        image = stretch(brighten(image, 1 + 0.4 * draws[0]), 1 + 0.3 * draws[1])
        return rotate_hue(saturate(image, 1 + 0.2 * draws[2]), 0.1 * draws[3])

    key = jax.random.key(3)
    np.testing.assert_allclose(jax.jit(view.augment)(key, IMAGE), jax.jit(parts)(key, IMAGE), atol=1e-5)


def test_brightness_is_uniform_in_its_range():
    grey = jnp.full((1, 1, 3), 0.25)
    keys = jax.random.split(jax.random.key(0), 4000)
    for change, low, high in ((0.5, 0.5, 1.5), (2.0, 0.0, 3.0)):
        augment = ColorJitter(brightness=change).augment
        factors = jax.jit(jax.vmap(augment, (0, None)))(keys, grey)[:, 0, 0, 0] / 0.25
        assert factors.min() >= low - 1e-6
        assert factors.max() <= high + 1e-6
        quartiles = np.quantile(factors, [0.25, 0.5, 0.75])
        # Four standard errors of a quartile of 4,000 uniform draws are below 0.035 of the range.
        np.testing.assert_allclose(
            quartiles, low + (high - low) * np.array([0.25, 0.5, 0.75]), atol=0.035 * (high - low)
        )


def test_grayscale_converts_the_declared_share():
    keys = jax.random.split(jax.random.key(0), 1000)
    images = jax.jit(jax.vmap(Grayscale(p=0.3).augment, (0, None)))(keys, IMAGE)
    grey = np.asarray(np.ptp(images, axis=-1).max((1, 2)) == 0)
    assert 0.3 - 0.06 < grey.mean() < 0.3 + 0.06  # four standard errors
    np.testing.assert_allclose(images[grey][0][..., 0], luma(jnp.asarray(IMAGE))[..., 0], atol=FLOAT32)
    np.testing.assert_array_equal(images[~grey][0], IMAGE)


def test_image_without_three_channels_is_refused():
    with pytest.raises(ValueError, match="has 1 channels"):
        luma(jnp.zeros((4, 4, 1)))
