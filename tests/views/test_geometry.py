"""Views that move pixels agree with plain loops and with Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrep.batch import INFERENCE
from jaxrep.views.geometry import (
    Cutout,
    RandomHorizontalFlip,
    RandomRotation,
    RandomTranslate,
    Resize,
    cutout,
    rotate,
    translate,
)

IMAGE = np.random.default_rng(0).random((9, 7, 3), dtype=np.float32)
turned = jax.jit(rotate)


def augmented(view, keys, image):
    return np.asarray(jax.jit(jax.vmap(view.augment, (0, None)))(keys, image))


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -3), (-1, 6), (8, 0), (9, 1), (-20, 3)])
def test_translate_moves_whole_pixels_and_fills_the_rest(down, right):
    expected = np.full(IMAGE.shape, 0.75, np.float32)
    for y, x in np.ndindex(9, 7):
        if 0 <= y - down < 9 and 0 <= x - right < 7:
            expected[y, x] = IMAGE[y - down, x - right]
    np.testing.assert_array_equal(translate(jnp.asarray(IMAGE), down, right, 0.75), expected)


def test_translate_draws_offsets_uniformly():
    dot = np.zeros((5, 5, 1), np.float32)
    dot[2, 2] = 1
    keys = jax.random.split(jax.random.key(0), 2500)
    images = augmented(RandomTranslate(pixels=2, fill=0.0), keys, jnp.asarray(dot))
    assert np.asarray(images).sum((1, 2, 3)).tolist() == [1] * 2500
    counts = np.asarray(images).sum((0, 3))
    assert counts.min() > 60  # each of 25 places has 100, with a standard deviation of 10
    assert counts.max() < 140


def test_flip_mirrors_the_declared_share():
    keys = jax.random.split(jax.random.key(1), 1000)
    images = augmented(RandomHorizontalFlip(p=0.25), keys, jnp.asarray(IMAGE))
    mirrored = np.array([np.array_equal(image, IMAGE[:, ::-1]) for image in images])
    assert 0.25 - 0.055 < mirrored.mean() < 0.25 + 0.055  # four standard errors
    assert all(np.array_equal(image, IMAGE) for image in images[~mirrored])


@pytest.mark.parametrize("degrees", [0.0, 10.0, -33.0, 90.0, 170.0])
def test_rotation_equals_a_loop_of_bilinear_interpolation(degrees):
    framed = np.pad(IMAGE.astype(np.float64), ((40, 40), (40, 40), (0, 0)), constant_values=0.75)
    expected = np.empty(IMAGE.shape)
    angle = np.deg2rad(degrees)
    for i, j in np.ndindex(9, 7):
        y = np.cos(angle) * (i - 4) + np.sin(angle) * (j - 3) + 4 + 40
        x = np.cos(angle) * (j - 3) - np.sin(angle) * (i - 4) + 3 + 40
        top, left = int(np.floor(y)), int(np.floor(x))
        expected[i, j] = sum(
            (1 - abs(y - v)) * (1 - abs(x - u)) * framed[v, u] for v in (top, top + 1) for u in (left, left + 1)
        )
    # A place is rounded to float32, where its own error is up to a unit in the last place of ten: 1e-6.
    np.testing.assert_allclose(turned(IMAGE, degrees, 0.75), expected, atol=1e-5)


def test_rotation_has_pillows_direction():
    picture = Image.fromarray(IMAGE[..., 0], mode="F")
    theirs = np.asarray(picture.rotate(20, Image.Resampling.BILINEAR))
    ours = np.asarray(turned(IMAGE[..., :1], 20.0, 0.0))[..., 0]
    np.testing.assert_allclose(ours[3:6, 2:5], theirs[3:6, 2:5], atol=1e-5)  # at the border Pillow does not interpolate


def test_rotation_stays_within_its_angle():
    step = jnp.asarray(np.repeat(np.arange(65, dtype=np.float32)[:, None, None] / 64, 65, 1))
    keys = jax.random.split(jax.random.key(0), 500)
    images = augmented(RandomRotation(degrees=30.0), keys, step)
    angles = np.rad2deg(
        np.asarray(jnp.arcsin(jnp.clip((images[:, 32, 42, 0] - images[:, 32, 22, 0]) * 64 / 20, -1, 1)))
    )
    assert np.abs(angles).max() < 30.01
    np.testing.assert_allclose(np.quantile(angles, [0.25, 0.75]), [-15, 15], atol=4.7)  # four standard errors of 500


@pytest.mark.parametrize(("top", "left"), [(2, 1), (-2, 5), (7, -1)])
def test_cutout_covers_its_square_only(top, left):
    expected = IMAGE.copy()
    expected[max(top, 0) : top + 4, max(left, 0) : left + 4] = 0.5
    np.testing.assert_array_equal(cutout(jnp.asarray(IMAGE), top, left, 4, 0.5), expected)


def test_cutout_centers_are_uniform():
    keys = jax.random.split(jax.random.key(0), 2000)
    images = augmented(Cutout(size=1, fill=2.0), keys, jnp.asarray(IMAGE[:4, :5]))
    counts = (np.asarray(images)[..., 0] == 2).sum(0)
    assert counts.sum() == 2000
    assert counts.min() > 60  # each of 20 places has 100, with a standard deviation of 10


@pytest.mark.parametrize("size", [(4, 7), (9, 3), (13, 20)])
def test_resize_is_pillows(size):
    batch = {"photo": jnp.asarray(IMAGE)[None, None]}
    actual = Resize("photo", size=size)(batch, INFERENCE)["photo"][0, 0]
    for channel in range(3):
        picture = Image.fromarray(IMAGE[..., channel]).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_allclose(actual[..., channel], np.asarray(picture), atol=1e-5)


def test_half_the_size_without_smoothing_is_the_mean_of_four_pixels():
    images = np.random.default_rng(1).integers(0, 256, (2, 6, 8, 5), dtype=np.uint8)
    batch = {"photo": jnp.asarray(images), "photo/box": jnp.ones((2, 4))}
    out = Resize("photo", out="small", size=(3, 4), antialias=False)(batch, INFERENCE)
    expected = (images / 255).reshape(2, 3, 2, 4, 2, 5).mean(axis=(2, 4))
    np.testing.assert_allclose(out["small"], expected, atol=1e-6)
    np.testing.assert_array_equal(out["small/box"], batch["photo/box"])
    np.testing.assert_array_equal(out["photo"], images)


def test_resize_names_arrays_that_are_no_images():
    with pytest.raises(ValueError, match=r"'photo' has shape \(2, 6\), where a view expects \[B,H,W,C\]"):
        Resize("photo", size=3)({"photo": jnp.zeros((2, 6))}, INFERENCE)
