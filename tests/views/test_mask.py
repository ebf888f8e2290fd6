"""Masked patches: rectangles, never more than the drawn share, and single patches, as many in every row."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext
from jaxrep.spec import problems
from jaxrep.views.mask import BlockMask, RandomMask, hidden_count

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


def masks(view, fields, rows=slice(None)):
    """Return the fields of a mask; ``fields`` has the array that is hidden under the name x."""
    ctx = StepContext(step=0, base_key=jax.random.key(0), positions=POSITIONS[: len(fields)][rows])
    out = jax.jit(lambda x: view({"x": x}, ctx))(fields[rows])
    return [np.asarray(out[f"x/{name}"]) for name in ("masked", "masked_index", "shown_index")]


def assert_consistent(masked, hidden, shown):
    """Both lists of places rise and are those of the mask, and each row has as many."""
    for row, at, others in zip(masked, hidden, shown, strict=True):
        np.testing.assert_array_equal(at, np.flatnonzero(row))
        np.testing.assert_array_equal(others, np.flatnonzero(~row))
    assert hidden.dtype == shown.dtype == np.int32


@pytest.mark.parametrize("shape", [(20, 3), (12, 20, 3), (4, 12, 8, 1), (20,)])
def test_random_masks_hide_the_same_number_of_patches_in_every_row(shape):
    fields: Any = np.zeros((16, *shape), np.float32)
    masked, *places = masks(RandomMask("x", patch=4, share=0.7), fields)
    tokens = masked.shape[1]
    assert tokens == np.prod([side // 4 for side in (shape if len(shape) == 1 else shape[:-1])])
    assert (masked.sum(1) == np.ceil(0.7 * tokens)).all()
    assert_consistent(masked, *places)
    assert len(np.unique(masked, axis=0)) > 1  # rows draw by themselves


def test_numbers_of_hidden_patches_are_those_of_the_released_codes():
    """MAE keeps int(196 * 0.25) = 49 patches; SimMIM hides ceil(49 * 0.6) = 30 units. 0.1 * 30 is above 3 in floats."""
    assert [hidden_count(*case) for case in ((196, 0.75), (49, 0.6), (30, 0.1), (64, 0.75))] == [147, 30, 3, 48]


def test_random_masks_are_uniform_over_places():
    masked = masks(RandomMask("x", patch=4, share=0.5), np.zeros((COUNT, 16, 16, 1), np.float32))[0]
    # Each place is hidden with probability 1/2: 5 standard deviations, for 16 places. Pairs: (8/16)(7/15).
    assert np.abs(masked.mean(0) - 0.5).max() < 5 * (0.25 / COUNT) ** 0.5
    pairs = (masked[:, :, None] & masked[:, None]).mean(0)[~np.eye(16, dtype=bool)]
    assert np.abs(pairs - 0.5 * 7 / 15).max() < 5 * (0.18 / COUNT) ** 0.5


def test_units_hide_several_patches_together():
    """A unit of 32 pixels on patches of 16 pixels hides 2 x 2 patches."""
    masked, *places = masks(RandomMask("x", patch=16, share=0.6, unit=2), np.zeros((16, 96, 128, 3), np.uint8))
    blocks = masked.reshape(16, 3, 2, 4, 2)
    assert (blocks == blocks[:, :, :1, :, :1]).all() and (masked.sum(1) == 4 * 8).all()
    assert_consistent(masked, *places)
    masked = masks(RandomMask("x", patch=(1, 2), share=0.5, unit=(3, 1)), np.zeros((16, 6, 4, 3), np.uint8))[0]
    columns = masked.reshape(16, 2, 3, 2)
    assert (columns == columns[:, :, :1]).all()


def test_groups_of_tokens_are_hidden_together_or_apart():
    fields = np.zeros((16, 16, 16, 10), np.float32)
    apart, *places = masks(RandomMask("x", patch=4, share=0.75, groups=3), fields)
    assert apart.shape == (16, 48) and (apart.sum(1) == 36).all()
    assert len({*apart.reshape(-1, 16).sum(1)}) > 1
    assert_consistent(apart, *places)
    together, *places = masks(RandomMask("x", patch=4, share=0.75, groups=3, together=True), fields)
    groups = together.reshape(16, 3, 16)
    assert (groups == groups[:, :1]).all() and (groups.sum(2) == 12).all()
    assert_consistent(together, *places)


@pytest.mark.parametrize(
    "exact", [RandomMask("x", patch=4), BlockMask("x", patch=4, p=1, share=(0.5, 0.5), exact=True)]
)
def test_draws_of_a_mask_follow_from_the_position_alone(exact):
    fields = np.zeros((16, 16, 16, 1), np.float32)
    whole, part = masks(exact, fields), masks(exact, fields, slice(5, 9))
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_array_equal(a[5:9], b)


def test_exact_block_masks_hide_exactly_their_share():
    """CAE hides 98 of 196 patches, in blocks of 16 at least."""
    view = BlockMask("x", patch=16, p=1.0, share=(0.5, 0.5), smallest=16, exact=True)
    masked, *places = masks(view, np.zeros((32, 224, 224, 3), np.uint8))
    assert (masked.sum(1) == 98).all()
    assert_consistent(masked, *places)
    grid = masked.reshape(-1, 14, 14)
    assert (grid[:, 1:] & grid[:, :-1]).sum() / grid[:, 1:].sum() > 0.75  # 0.5 where patches were drawn one by one


@pytest.mark.parametrize(
    ("view", "shape", "sentence"),
    [
        (RandomMask("x", patch=5), (16, 12, 3), "RandomMask: 'x', 16 x 12, does not split into patches of 5 x 5"),
        (RandomMask("x", patch=(4,)), (16, 12, 3), "RandomMask: 'x' has 3 axes, and a patch has 1 sides"),
        (RandomMask("x", patch=4, unit=3), (16, 12, 3), "its grid of patches, 4 x 3, does not split into units of 3"),
        (RandomMask("x", patch=4, unit=(2,)), (16, 16, 3), r"patches along 2 axes, and unit is \(2,\)"),
        (RandomMask("x", patch=8, share=0.9), (16, 16, 3), "share = 0.9 hides 4 of 4 units: hide some, and not all"),
        (RandomMask("x", patch=8, share=1e-12), (16, 16, 3), "hides 0 of 4 units: hide some, and not all"),
        (RandomMask("x", patch=8), (), "RandomMask: .x. has 0 axes, and a patch has 1 sides"),
        (BlockMask("x", patch=8, p=1, share=(0, 0), exact=True), (16, 16, 3), "hides 0 of 4 patches: hide some"),
        (BlockMask("x", patch=8, p=1, share=(1, 1), exact=True), (16, 16, 3), "hides 4 of 4 patches: hide some"),
    ],
)
def test_masks_that_do_not_fit_are_one_sentence(view, shape, sentence):
    assert not problems(view)
    with pytest.raises(ValueError, match=sentence):
        masks(view, np.zeros((2, *shape), np.float32))


def test_shares_that_hide_nothing_or_all_are_refused():
    assert "above 0" in problems(RandomMask("x", patch=4, share=0.0))[0]
    assert "below 1" in problems(RandomMask("x", patch=4, share=1.0))[0]
    assert "set p = 1 and share = (0.5, 0.5)" in problems(BlockMask("x", patch=4, exact=True))[0]
