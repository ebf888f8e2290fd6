"""Gaussian blur equals SciPy's filter, and solarization Pillow's."""

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter1d

from jaxrep.batch import StepContext
from jaxrep.views.color import ColorJitter, GaussianBlur, Solarize, blur

PICTURES = np.random.default_rng(0).integers(0, 256, (64, 12, 9, 3), dtype=np.uint8)
FLOATS = PICTURES.astype(np.float32) / 255


def augmented(view):
    positions = np.stack([np.zeros(64), np.arange(64)], 1).astype(np.uint32)
    return np.asarray(
        view({"image": PICTURES}, StepContext(step=0, base_key=jax.random.key(0), positions=positions))["image"]
    )


@pytest.mark.parametrize(("sigma", "radius"), [(0.3, 2), (1.7, 4)])
def test_blur_equals_scipy_with_mirrored_border(sigma, radius):
    expected = FLOATS[0].astype(np.float64)
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, sigma, axis=axis, mode="mirror", radius=radius)
    np.testing.assert_allclose(
        jax.jit(blur, static_argnums=2)(FLOATS[0], sigma, radius), expected, atol=1e-6
    )  # float32


def test_blur_draws_images_and_widths():
    images = augmented(GaussianBlur(p=0.5, sigma=(0.5, 2.0)))
    changed = np.array([np.abs(a - b).max() > 1e-6 for a, b in zip(images, FLOATS, strict=True)])
    assert 16 < changed.sum() < 48  # 4 standard deviations about the half
    spread = images[changed].std((1, 2, 3))
    assert spread.max() > 1.5 * spread.min()  # noise that is smoothed more varies less


def test_solarize_equals_pillow():
    images = augmented(Solarize(p=1.0))
    for picture, ours in zip(PICTURES[:4], images, strict=False):
        theirs = np.asarray(ImageOps.solarize(Image.fromarray(picture), 128))
        np.testing.assert_allclose(ours, theirs.astype(np.float32) / 255, atol=1e-6)
    some = augmented(Solarize(p=0.5))
    changed = np.array([np.abs(a - b).max() > 1e-6 for a, b in zip(some, FLOATS, strict=True)])
    assert 16 < changed.sum() < 48


def test_jitter_with_probability_changes_some_images():
    always, some = augmented(ColorJitter(brightness=0.4)), augmented(ColorJitter(brightness=0.4, p=0.8))
    changed = np.array([np.abs(a - b).max() > 1e-6 for a, b in zip(some, FLOATS, strict=True)])
    assert 38 < changed.sum() < 64
    np.testing.assert_allclose(some[changed], always[changed], atol=1e-6)
