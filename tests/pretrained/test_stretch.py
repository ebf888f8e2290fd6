"""Stretched positions are those of Long-CLIP's released code where the step is a quarter."""

import numpy as np
import pytest

from jaxrep.pretrained.stretch import stretch_positions


def by_quarters(old, keep):
    """The released code's loop, from 77 to 248 with 20 kept: four positions for one, the last ones beyond the end."""
    new = list(old[:keep])
    for left, right in zip(old[keep:-1], old[keep + 1 :], strict=True):
        new += [(1 - quarter / 4) * left + quarter / 4 * right for quarter in range(4)]
    return np.array(new + [old[-1] + quarter / 4 * (old[-1] - old[-2]) for quarter in range(4)])


def test_positions_after_the_first_ones_are_stretched_by_four():
    old = np.random.default_rng(0).normal(size=(77, 3)).astype(np.float32)
    found = stretch_positions(old, 248, 20)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:20], old[:20])
    np.testing.assert_array_equal(found[20::4], old[20:])
    np.testing.assert_allclose(found, by_quarters(np.float64(old), 20), rtol=1e-6, atol=1e-6)


def test_a_stretch_by_any_ratio_is_linear_in_what_is_linear():
    old = np.arange(10, dtype=np.float32)[:, None]
    found = stretch_positions(old, 24, 3)[:, 0]
    np.testing.assert_allclose(found, [0, 1, 2, *(3 + np.arange(21) / 3)], rtol=1e-6)


def test_what_cannot_be_stretched_is_refused():
    for length, keep in ((10, 3), (12, 9), (12, -1)):
        with pytest.raises(ValueError, match="cannot be stretched"):
            stretch_positions(np.zeros((10, 2), np.float32), length, keep)
