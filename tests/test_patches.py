"""Patches of arrays: places and values in order, their inverse, and sentences on what does not fit."""

import einops
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.patches import patch_grid, patch_sides, patchify, take_places, unpatchify

RANDOM = np.random.default_rng(0)
CASES = {
    "series": ((6, 2), (3,), "b (n p) c -> b n (p c)"),
    "image": ((4, 6, 3), (2, 3), "b (h p) (w q) c -> b (h w) (p q c)"),
    "volume": ((4, 2, 6, 2), (2, 1, 3), "b (d o) (h p) (w q) c -> b (d h w) (o p q c)"),
    "without channels": ((4, 6), (2, 3), "b (h p) (w q) -> b (h w) (p q)"),
}


@pytest.mark.parametrize("name", CASES)
def test_patches_are_those_of_einops_and_their_inverse_gives_the_array(name: str):
    shape, sides, pattern = CASES[name]
    x = RANDOM.normal(size=(2, *shape)).astype(np.float32)
    names = dict(zip("opq" if len(sides) == 3 else "pq", sides, strict=False))
    patches = patchify(jnp.asarray(x), sides)
    np.testing.assert_array_equal(patches, einops.rearrange(x, pattern, **names))
    back = unpatchify(patches, patch_grid(shape, sides, "x"), sides)
    np.testing.assert_array_equal(back, x.reshape(back.shape))


def test_one_number_is_the_side_along_all_axes_before_channels():
    sides = {shape: patch_sides(shape, 2, "x") for shape in ((8,), (8, 3), (8, 8, 3), (8, 8, 8, 1))}
    assert list(sides.values()) == [(2,), (2,), (2, 2), (2, 2, 2)]
    assert patch_sides((8, 6), (), "x") == (8,) and patch_sides((5,), (), "x") == (5,)
    assert patch_sides((8, 6), (2, 3), "x") == (2, 3) and patch_sides((8, 6), (2,), "x") == (2,)


def test_patches_that_do_not_fit_are_one_sentence():
    with pytest.raises(ValueError, match=r"^'x' has 3 axes, and a patch has 1 sides: give one for each axis"):
        patch_sides((8, 6, 3), (2,), "'x'")
    with pytest.raises(ValueError, match=r"^'x', 8 x 6, does not split into patches of 2 x 4: change its size or"):
        patch_grid((8, 6, 3), (2, 4), "'x'")


def test_places_are_taken_by_row():
    x = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(take_places(x, jnp.array([[2, 0], [1, -1]])), [[[4, 5], [0, 1]], [[8, 9], [6, 7]]])
