"""Norms, convolutions and stochastic depth against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.encoders.image.convolution import BatchNorm, Conv, GroupNorm, blur
from jaxrep.encoders.layers import drop_branch

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (4, 5, 6, 8))


def test_batch_norm_normalizes_by_the_batch_and_moves_the_running_statistics_towards_it():
    norm = BatchNorm(momentum=0.9, epsilon=1e-3).build(8)
    norm.scale[...], norm.bias[...] = scale, bias = jnp.array(RNG.normal(size=(2, 8)), jnp.float32)
    y = norm(jnp.array(X, jnp.float32), True)
    mean, variance = X.mean((0, 1, 2)), X.var((0, 1, 2))
    # float32 sums of 120 values of size 3
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(variance + 1e-3) * scale + bias, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.variance[...], 0.9 + 0.1 * variance, rtol=1e-5)


def test_groups_of_a_batch_norm_are_normalized_each_by_itself():
    """As on so many devices, in the order of rows; the running statistics move towards the mean over the groups."""
    grouped, whole = BatchNorm(groups=2).build(8), BatchNorm().build(8)
    x = jnp.array(X, jnp.float32)
    np.testing.assert_allclose(grouped(x, True), jnp.concatenate([whole(x[:2], True), whole(x[2:], True)]), rtol=1e-5)
    halves = X.reshape(2, 2, 5, 6, 8)
    np.testing.assert_allclose(grouped.mean[...], 0.1 * halves.mean((1, 2, 3)).mean(0), rtol=1e-5)
    np.testing.assert_allclose(grouped.variance[...], 0.9 + 0.1 * halves.var((1, 2, 3)).mean(0), rtol=1e-5)
    alone, by_running = BatchNorm(groups=3).build(8), BatchNorm().build(8)
    np.testing.assert_array_equal(alone(x, False), by_running(x, False))  # inference has no groups
    with pytest.raises(ValueError, match=r"norm.groups = 3 do not divide the 4 rows of a batch"):
        alone(x, True)


def test_batch_norm_at_inference_uses_the_running_statistics_and_leaves_them():
    norm = BatchNorm(epsilon=1e-3).build(8)
    mean, variance = RNG.normal(size=8), RNG.uniform(0.5, 2, 8)
    norm.mean[...], norm.variance[...] = jnp.array(mean, jnp.float32), jnp.array(variance, jnp.float32)
    y = norm(jnp.array(X, jnp.float32), False)
    np.testing.assert_allclose(y, (X - mean) / np.sqrt(variance + 1e-3), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-6)
    np.testing.assert_allclose(norm.variance[...], variance, rtol=1e-6)


def test_group_norm_normalizes_each_row_by_groups_of_channels():
    norm = GroupNorm(groups=4, epsilon=1e-3).build(8)
    y = norm(jnp.array(X, jnp.float32), True)
    groups = X.reshape(4, 5, 6, 4, 2)
    mean, variance = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
    np.testing.assert_allclose(y, ((groups - mean) / np.sqrt(variance + 1e-3)).reshape(X.shape), rtol=1e-4, atol=1e-5)


def test_norms_keep_the_type_of_activations_and_float32_statistics():
    x = jnp.array(X, jnp.bfloat16)
    norm = BatchNorm().build(8)
    assert norm(x, True).dtype == GroupNorm().build(8)(x, True).dtype == jnp.bfloat16
    assert norm.mean[...].dtype == norm.variance[...].dtype == jnp.float32


@pytest.mark.parametrize(("symmetric", "before", "after"), [(True, 1, 1), (False, 0, 1)])
def test_strided_convolution_padding(symmetric, before, after):
    """On an even side with a 3 x 3 kernel of stride 2, torch pads (1, 1) and TensorFlow's SAME (0, 1)."""
    x = RNG.normal(size=(2, 6, 6, 3))
    conv = Conv(nnx.Rngs(0), 3, 4, 3, stride=2, symmetric=symmetric)
    kernel = np.asarray(conv.kernel[...], np.float64)
    padded = np.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))
    want = np.stack(
        [[np.einsum("bhwc,hwcd->bd", padded[:, i : i + 3, j : j + 3], kernel) for j in (0, 2, 4)] for i in (0, 2, 4)]
    )
    np.testing.assert_allclose(conv(jnp.array(x, jnp.float32)), np.moveaxis(want, 2, 0), rtol=1e-4, atol=1e-5)


def test_grouped_kernel_starts_with_fan_out_variance():
    kernel = Conv(nnx.Rngs(0), 512, 512, 5, groups=512).kernel[...]
    assert kernel.shape == (5, 5, 1, 512)
    # 12,800 draws: the standard deviation is known to 0.6%
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 25), rtol=0.03)


def test_blur_is_the_binomial_filter_with_zeros_outside():
    x = RNG.normal(size=(1, 4, 5, 2))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    want = sum(weights[i, j] * padded[:, i : i + 4, j : j + 5] for i in range(3) for j in range(3))
    np.testing.assert_allclose(blur(jnp.array(x, jnp.float32)), want, rtol=1e-5, atol=1e-6)


def test_stochastic_depth_drops_whole_rows_and_keeps_the_mean():
    x = jnp.ones((2000, 2, 1, 1))
    y = np.asarray(drop_branch(x, 0.25, jax.random.split(jax.random.key(0), 2000)))
    assert set(np.unique(y)) == {0.0, np.float32(4 / 3)}
    np.testing.assert_array_equal(y[:, 0], y[:, 1])
    np.testing.assert_allclose(y.mean(), 1, atol=0.05)  # four standard deviations of 2,000 draws
    np.testing.assert_array_equal(drop_branch(x, 0.25, None), x)
