"""Crops equal Pillow's, and boxes are drawn as by torchvision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrep.views.geometry import RandomResizedCrop, RandomSquareCrop, resize

IMAGE = np.random.default_rng(0).random((20, 30, 3), dtype=np.float32)
jit_resize = jax.jit(resize, static_argnums=1)


@pytest.mark.parametrize("size", [5, 16, 40])
@pytest.mark.parametrize("box", [(0, 0, 20, 30), (3, 7, 9, 14), (19, 29, 1, 1), (0, 2, 20, 5)])
def test_resize_equals_pillow_antialiased_bilinear(size, box):
    top, left, height, width = box
    cut = IMAGE[top : top + height, left : left + width]
    channels = [Image.fromarray(cut[..., c].copy(), mode="F") for c in range(3)]
    theirs = np.stack([np.asarray(c.resize((size, size), Image.Resampling.BILINEAR)) for c in channels], -1)
    ours = jit_resize(IMAGE, size, *box)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)  # float32 weights of numbers up to 30


def test_resize_to_the_same_size_is_the_identity():
    square = jnp.asarray(IMAGE[:, :20])
    np.testing.assert_allclose(jit_resize(square, 20, 0.0, 0.0, 20.0, 20.0), square, atol=1e-6)
    whole = RandomResizedCrop(size=20, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    np.testing.assert_allclose(jax.jit(whole.augment)(jax.random.key(0), square), square, atol=1e-6)


def boxes(view, height, width, n=4000):
    keys = jax.random.split(jax.random.key(0), n)
    return np.stack(jax.jit(jax.vmap(lambda key: jnp.stack(view.box(key, height, width))))(keys)).T


def test_boxes_have_the_declared_areas_and_shapes():
    view = RandomResizedCrop(size=8, scale=(0.2, 0.8), ratio=(0.5, 2.0))
    top, left, height, width = boxes(view, 200, 300)
    assert np.array_equal(top, np.round(top))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 200).all()
    assert (left + width <= 300).all()
    area, ratio = height * width / 60_000, width / height
    rounding = 1.02  # half a pixel of 77, the shortest side of a box of these areas and shapes, twice
    assert 0.2 / rounding < area.min() < 0.22
    assert 0.75 < area.max() < 0.8 * rounding
    assert 0.5 / rounding < ratio.min() < 0.52
    assert 1.9 < ratio.max() < 2.0 * rounding


def test_boxes_are_distributed_as_a_loop_of_attempts():
    view = RandomResizedCrop(size=8)
    random, expected = np.random.default_rng(1), []
    while len(expected) < 4000:
        for _ in range(10):
            area = 100 * 150 * random.uniform(0.08, 1.0)
            ratio = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
            width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if width <= 150 and height <= 100:
                expected.append((random.integers(100 - height + 1), random.integers(150 - width + 1), height, width))
                break
    ours = boxes(view, 100, 150)
    for mine, theirs in zip(ours, np.array(expected).T, strict=True):
        # Four standard errors of a quartile's difference: densities at these quartiles are above 0.35 of the range.
        tolerance = 4 * np.sqrt(2 * 0.25 / 4000) * np.ptp(theirs) / 0.7
        np.testing.assert_allclose(
            np.quantile(mine, [0.25, 0.5, 0.75]), np.quantile(theirs, [0.25, 0.5, 0.75]), atol=tolerance
        )


@pytest.mark.parametrize(("shape", "expected"), [((10, 100), (10, 13)), ((100, 10), (13, 10)), ((10, 11), (10, 11))])
def test_box_is_central_if_no_attempt_fits(shape, expected):
    view = RandomResizedCrop(size=8, scale=(1.0, 1.0))
    found = boxes(view, *shape, n=200)
    central = [((shape[0] - expected[0]) // 2, (shape[1] - expected[1]) // 2, *expected)]
    share = np.all(np.equal(found.T, central), axis=1).mean()
    assert share == 1 if shape != (10, 11) else share > 0.05


def test_square_crop_keeps_pixels_and_reaches_every_place():
    places = set()
    crops = jax.jit(jax.vmap(RandomSquareCrop(size=18).augment, (0, None)))(
        jax.random.split(jax.random.key(0), 60), IMAGE[:, :20]
    )
    for crop in np.asarray(crops):
        found = [(y, x) for y in range(3) for x in range(3) if np.array_equal(crop, IMAGE[y : y + 18, x : x + 18])]
        places.update(found)
        assert len(found) == 1
    assert len(places) == 9


def test_square_crop_defaults_to_the_shorter_side():
    assert RandomSquareCrop().augment(jax.random.key(0), jnp.asarray(IMAGE)).shape == (20, 20, 3)


def test_crop_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match=r"crop of 24 pixels does not fit 'image' of \(20, 30\)"):
        RandomSquareCrop(size=24).augment(jax.random.key(0), jnp.asarray(IMAGE))
