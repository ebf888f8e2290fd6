"""Masked patches: rectangles, never more than the drawn share."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.views.mask import BlockMask

COUNT, ROWS, COLUMNS = 256, 8, 6
IMAGES: Any = np.zeros((COUNT, 4 * ROWS, 4 * COLUMNS, 3), np.uint8)
POSITIONS = np.stack([np.zeros(COUNT), np.arange(COUNT)], 1).astype(np.uint32)


def drawn(view, rows=slice(None)):
    ctx = StepContext(step=0, base_key=jax.random.key(0), positions=POSITIONS[rows])
    out = jax.jit(lambda image: view({"image": image}, ctx))(IMAGES[rows])
    return np.asarray(out["image/masked"]), np.asarray(out["image/masked_index"])


def test_share_of_masked_images_and_patches():
    masked, hidden = drawn(BlockMask(patch=4, p=0.5, share=(0.1, 0.5)))
    counts = masked.sum(1)
    some = counts > 0
    assert 96 < some.sum() < 160  # 4 standard deviations about the half
    assert counts.max() <= ROWS * COLUMNS // 2 and hidden.shape == (COUNT, ROWS * COLUMNS // 2)
    # Rectangles that would hide too many are left away, so that a few of what was wanted can be missing.
    assert 0.25 < counts[some].mean() / (ROWS * COLUMNS) < 0.32
    for mask, places in zip(masked, hidden, strict=True):
        assert places[places >= 0].tolist() == np.flatnonzero(mask).tolist()
        assert (places[mask.sum() :] == -1).all()


def test_masked_patches_form_blocks():
    masked = drawn(BlockMask(patch=4, p=1.0, share=(0.3, 0.3)))[0].reshape(-1, ROWS, COLUMNS)
    beside = (masked[:, 1:] & masked[:, :-1]).sum() / masked[:, 1:].sum()
    assert beside > 0.55  # 0.3 where patches were drawn one by one


def test_patches_that_do_not_divide_the_image_are_named():
    with pytest.raises(ValueError, match="'image', 32 x 24, does not split into patches of 5"):
        BlockMask(patch=5)({"image": IMAGES}, StepContext(step=0, base_key=jax.random.key(0), positions=POSITIONS))
