"""Resizing of positions and patch kernels against NumPy's interpolation and Long-CLIP's released code."""

import numpy as np
import pytest

from jaxrep.pretrained.resize import resize_kernel, resize_positions, stretch_positions


def by_quarters(old, keep):
    """Stretch 77 positions to 248 with 20 kept, by the loop of the released code: four positions for one."""
    new = list(old[:keep])
    for left, right in zip(old[keep:-1], old[keep + 1 :], strict=True):
        new += [(1 - quarter / 4) * left + quarter / 4 * right for quarter in range(4)]
    return np.array(new + [old[-1] + quarter / 4 * (old[-1] - old[-2]) for quarter in range(4)])


def test_stretch_positions_equals_released_code():
    old = np.random.default_rng(0).normal(size=(77, 3)).astype(np.float32)
    resized = stretch_positions(old, 248, 20)
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized[:20], old[:20])
    np.testing.assert_array_equal(resized[20::4], old[20:])
    np.testing.assert_allclose(resized, by_quarters(np.float64(old), 20), rtol=1e-6, atol=1e-6)


def test_stretch_positions_keeps_linear_values():
    old = np.arange(10, dtype=np.float32)[:, None]
    resized = stretch_positions(old, 24, 3)[:, 0]
    np.testing.assert_allclose(resized, [0, 1, 2, *(3 + np.arange(21) / 3)], rtol=1e-6)


def test_invalid_stretch_is_refused():
    for length, keep in ((10, 3), (12, 9), (12, -1)):
        with pytest.raises(ValueError, match="cannot be stretched"):
            stretch_positions(np.zeros((10, 2), np.float32), length, keep)


def test_resize_positions_keeps_constant_and_linear_fields():
    """Keys' kernel with a = -0.5, which antialiasing takes, reproduces what is linear, away from the border."""

    def field(side):
        y, x = (np.mgrid[:side, :side] + 0.5) / side
        return np.stack([np.full_like(x, 3.0), x, y], -1)

    for side, antialias in ((8, False), (8, True), (20, False), (20, True)):
        resized = resize_positions(field(12).reshape(-1, 3), (12, 12), (side, side), antialias=antialias)
        resized = resized.reshape(side, side, 3)
        np.testing.assert_allclose(resized[..., 0], 3, rtol=1e-6)
        if antialias and side == 20:
            np.testing.assert_allclose(resized[6:-6, 6:-6], field(20)[6:-6, 6:-6], atol=1e-6)
    assert resize_positions(resized, (20, 20), (20, 20)) is resized


def linearly(x, size):
    """Resize an image [h,w] by NumPy's interpolation between pixel centers, one axis after the other."""
    for _ in range(2):
        old = np.arange(len(x)) + 0.5
        new = (np.arange(size) + 0.5) * len(x) / size
        x = np.stack([np.interp(new, old, column) for column in x.T])
    return x


@pytest.mark.parametrize(("patch", "to"), [(3, 5), (4, 2), (3, 2)])
def test_resize_kernel_gives_nearest_tokens(patch, to):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(patch * patch * 2, 5)).astype(np.float32)
    pixels = np.eye(patch * patch).reshape(-1, patch, patch)
    resizing = np.stack([linearly(pixel, to).ravel() for pixel in pixels], 1)  # B of equation 2, [to*to, patch*patch]
    resized = resize_kernel(kernel, patch, to).reshape(to * to, 2, 5)
    for channel in range(2):
        old = kernel.reshape(-1, 2, 5)[:, channel]
        nearest = np.linalg.lstsq(resizing.T, old, rcond=None)[0]
        np.testing.assert_allclose(resized[:, channel], nearest, atol=1e-5)  # float32 of values near 1
        if to > patch:
            np.testing.assert_allclose(resizing.T @ resized[:, channel], old, atol=1e-5)
        plain = resize_kernel(kernel, patch, to, pseudo_inverse=False).reshape(to * to, 2, 5)[:, channel]
        np.testing.assert_allclose(plain, resizing @ old, atol=1e-5)
    assert resize_kernel(kernel, patch, patch) is kernel
