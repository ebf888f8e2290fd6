"""What holds for every view of images: a row's draw is its own, and nothing is mutated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE, StepContext
from jaxrep.views.base import View
from jaxrep.views.color import ColorJitter, Grayscale
from jaxrep.views.crop import RandomResizedCrop, RandomSquareCrop
from jaxrep.views.geometry import Cutout, RandomHorizontalFlip, RandomRotation, RandomTranslate

VIEWS = (
    RandomResizedCrop(size=6),
    RandomSquareCrop(size=6),
    ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1),
    Grayscale(p=0.5),
    RandomHorizontalFlip(),
    RandomTranslate(pixels=3),
    RandomRotation(degrees=20.0),
    Cutout(size=4),
)
each_view = pytest.mark.parametrize("view", VIEWS, ids=lambda view: type(view).__name__)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 10, 10, 3), dtype=np.uint8)
POSITIONS = np.stack([np.zeros(8), 100 + np.arange(8)], 1).astype(np.uint32)


def ctx(rows=slice(None), step=5):
    return StepContext(
        step=jnp.int32(step), base_key=jax.random.key(0), positions=jnp.asarray(POSITIONS[rows]), total_steps=10
    )


@each_view
def test_every_image_draws_for_itself_and_the_same_in_any_batch(view):
    jitted = jax.jit(view)
    same = jnp.broadcast_to(IMAGES[0], (8, 2, 10, 10, 3))
    out = jitted({"image": same, "label": jnp.arange(8)}, ctx())
    assert set(out) == {"image", "label"}
    images = np.asarray(out["image"])
    assert images.shape[:2] == (8, 2)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 1 + 1e-6  # weights of an interpolation sum to one within rounding
    assert len(np.unique(images[:, 0].reshape(8, -1), axis=0)) > 1
    assert not np.array_equal(images[:, 0], images[:, 1])
    part = jitted({"image": same[5:7]}, ctx(slice(5, 7)))
    np.testing.assert_allclose(part["image"], images[5:7], atol=1e-6)  # other fusion, other rounding


def test_without_a_second_axis_a_row_draws_as_well_and_the_batch_given_stays_as_it_was():
    batch = {"image": jnp.asarray(IMAGES)}
    levels = np.rint(np.asarray(RandomHorizontalFlip()(batch, ctx())["image"]) * 255)
    flipped = [np.array_equal(found, image[:, ::-1]) for found, image in zip(levels, IMAGES, strict=True)]
    expected = np.where(np.array(flipped)[:, None, None, None], IMAGES[:, :, ::-1], IMAGES)
    np.testing.assert_array_equal(levels, expected)
    assert 0 < sum(flipped) < 8
    np.testing.assert_array_equal(batch["image"], IMAGES)


def test_two_views_of_one_class_draw_differently_at_sites_of_their_own():
    same = {"image": jnp.broadcast_to(IMAGES[0], (8, 10, 10, 3))}
    first, second = (RandomTranslate(pixels=3)(same, ctx().at(site))["image"] for site in ("views/0", "views/1"))
    assert not np.array_equal(first, second)


def test_the_field_is_the_first_argument_and_only_that_field_changes():
    batch = {"image": jnp.asarray(IMAGES), "photo": jnp.asarray(IMAGES)}
    out = Grayscale("photo", p=1.0)(batch, ctx())
    np.testing.assert_array_equal(out["image"], IMAGES)
    assert np.ptp(out["photo"], axis=-1).max() == 0


def test_there_are_no_draws_at_inference():
    with pytest.raises(ValueError, match="none at inference"):
        RandomHorizontalFlip()({"image": jnp.asarray(IMAGES)}, INFERENCE)


def test_an_image_of_another_rank_is_named():
    with pytest.raises(ValueError, match=r"'image' has shape \(8, 10, 10\)"):
        RandomHorizontalFlip()({"image": jnp.asarray(IMAGES[..., 0])}, ctx())


def test_a_view_without_a_rule_says_so():
    with pytest.raises(TypeError, match="View is not a view"):
        View()({}, ctx())
