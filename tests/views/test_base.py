"""Views of images return a new batch; tests/conformance/test_views.py holds what every view promises."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrep.batch import StepContext
from jaxrep.spec import problems
from jaxrep.views.geometry import RandomHorizontalFlip, RandomResizedCrop

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 10, 10, 3), dtype=np.uint8)
POSITIONS = np.stack([np.zeros(8), 100 + np.arange(8)], 1).astype(np.uint32)


def test_view_draws_per_row_and_keeps_the_given_batch():
    batch = {"image": jnp.asarray(IMAGES)}
    ctx = StepContext(step=jnp.int32(5), base_key=jax.random.key(0), positions=jnp.asarray(POSITIONS))
    levels = np.rint(np.asarray(RandomHorizontalFlip()(batch, ctx)["image"]) * 255)
    flipped = [np.array_equal(level, image[:, ::-1]) for level, image in zip(levels, IMAGES, strict=True)]
    expected = np.where(np.array(flipped)[:, None, None, None], IMAGES[:, :, ::-1], IMAGES)
    np.testing.assert_array_equal(levels, expected)
    assert 0 < sum(flipped) < 8
    np.testing.assert_array_equal(batch["image"], IMAGES)


def test_reversed_ranges_and_wrong_limits_are_named():
    assert problems(RandomResizedCrop(size=8, scale=(0.5, 0.2), ratio=(2.0, 1.0))) == [
        "scale is a range (low, high), got (0.5, 0.2)",
        "ratio is a range (low, high), got (2.0, 1.0)",
    ]
    assert problems(RandomResizedCrop(size=0, scale=(0.5, 2.0))) == [
        "size: expected a number of at least 1, got 0",
        "scale.1: expected a number above 0 and of at most 1, got 2.0",
    ]
