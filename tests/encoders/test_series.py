"""Encoders of series and of vectors, compared with plain loops in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.series import Perceptron, SeriesConvolutions, SeriesTransformer, flatten, sines
from jaxrep.params import split
from jaxrep.spec import problems

RANDOM = np.random.default_rng(0)


def built(spec, *shape):
    structure, arrays = split(spec.build(nnx.Rngs(1), inputs=Field(shape, "float32")))
    arrays = {path: np.float32(RANDOM.normal(size=x.shape) * 0.3) for path, x in arrays.items()}
    return structure.merge(arrays), arrays


def test_series_convolutions_equal_loops():
    spec = SeriesConvolutions(length=23, channels=(5, 4), kernel=3, pool=4)
    module, arrays = built(spec, 23, 2)
    x = np.float32(RANDOM.normal(size=(3, 23, 2)))
    h = x.astype(np.float64)
    for i in range(2):
        kernel, bias = arrays[f"kernels/{i}"], arrays[f"biases/{i}"]
        h = np.stack([np.einsum("bkc,kcd->bd", h[:, t : t + 3], kernel) for t in range(h.shape[1] - 2)], 1) + bias
        h = np.maximum(h, 0)
        if i == 0:
            h = np.stack([h[:, t : t + 4].max(axis=1) for t in range(0, h.shape[1] - 3, 4)], 1)
    pooled = module(EncoderInputs(x)).pooled
    assert pooled.shape == (3, spec.features)
    np.testing.assert_allclose(pooled, h.reshape(3, -1), atol=1e-5)  # float32 sums of ten numbers


def test_series_transformer_embeds_by_circular_convolution_and_ignores_padding():
    spec = SeriesTransformer(length=6, width=8, depth=2, heads=2, pool="flatten")
    module, arrays = built(spec, 6, 3)
    x = np.float32(RANDOM.normal(size=(2, 6, 3)))
    h, positions, _ = module.embed(x)
    ring = np.concatenate([x[:, -1:], x, x[:, :1]], axis=1).astype(np.float64)
    expected = np.stack([np.einsum("bkc,kcd->bd", ring[:, t : t + 3], arrays["kernel"]) for t in range(6)], 1)
    np.testing.assert_allclose(h, expected, atol=1e-5)
    angle = np.arange(6)[:, None] / 10_000 ** (np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(positions[:, 0::2], np.sin(angle), atol=1e-5)
    np.testing.assert_allclose(positions[:, 1::2], np.cos(angle), atol=1e-5)
    np.testing.assert_array_equal(positions, sines(6, 8))
    valid = np.array([[True] * 3 + [False] * 3, [True] * 6])
    pooled = module(EncoderInputs(x, valid)).pooled
    assert pooled.shape == (2, spec.features) == (2, 48)
    assert not np.asarray(pooled).reshape(2, 6, 8)[0, 3:].any()
    changed = x.copy()
    changed[0, 4] += 1  # beyond the reach of the convolution from a real step
    np.testing.assert_allclose(module(EncoderInputs(changed, valid)).pooled, pooled, atol=1e-6)
    # One norm more after blocks that normalize their sums: unit variance of each token but for its gain and bias.
    tokens = module(EncoderInputs(x)).tokens
    plain = (np.asarray(tokens) - arrays["last/bias"]) / arrays["last/scale"]
    np.testing.assert_allclose(plain.mean(axis=-1), 0, atol=1e-4)
    np.testing.assert_array_equal(flatten(tokens, None), np.asarray(tokens).reshape(2, -1))


def test_series_without_positions_are_sets_of_time_steps():
    spec = SeriesTransformer(length=6, width=8, depth=2, heads=2, kernel=1)
    x, order = np.float32(RANDOM.normal(size=(2, 6, 3))), np.array([3, 1, 5, 0, 4, 2])
    for positions, same in (("none", True), ("sines", False)):
        module, _ = built(dataclasses.replace(spec, positions=positions), 6, 3)
        whole, mixed = (module(EncoderInputs(rows)) for rows in (x, x[:, order]))
        assert np.allclose(whole.pooled, mixed.pooled, atol=1e-5) == same
        assert np.allclose(whole.tokens[:, order], mixed.tokens, atol=1e-5) == same


def test_perceptron_equals_dense_layers():
    module, arrays = built(Perceptron(widths=(5, 4)), 3)
    x = np.float32(RANDOM.normal(size=(6, 3)))
    h = x.astype(np.float64)
    for i in range(2):
        h = np.maximum(h @ arrays[f"layers/{i}/kernel"] + arrays[f"layers/{i}/bias"], 0)
    np.testing.assert_allclose(module(EncoderInputs(x)).pooled, h, atol=1e-5)


def test_perceptron_has_any_activation_and_tells_its_layers():
    spec = Perceptron(widths=(5, 4, 3), activation="selu", last="sigmoid", init="glorot")
    for i, (inputs, width) in enumerate([(7, 5), (5, 4), (4, 3)]):  # Glorot & Bengio 2010, equation 16
        start = np.abs(split(spec.build(nnx.Rngs(0), inputs=Field((7,), "float32")))[1][f"layers/{i}/kernel"])
        assert 0.5 * (6 / (inputs + width)) ** 0.5 < start.max() <= (6 / (inputs + width)) ** 0.5
    module, arrays = built(spec, 7)
    x = np.float32(RANDOM.normal(size=(6, 7)))
    layer = lambda h, i: h @ arrays[f"layers/{i}/kernel"] + arrays[f"layers/{i}/bias"]  # noqa: E731
    found = module(EncoderInputs(x, intermediates=(0, 2)))
    h = jax.nn.selu(layer(x, 0))
    np.testing.assert_allclose(found.intermediates[0], h, atol=1e-5)
    last = jax.nn.sigmoid(layer(jax.nn.selu(layer(h, 1)), 2))
    np.testing.assert_allclose(found.pooled, last, atol=1e-5)
    assert found.intermediates.keys() == {0, 2} and found.intermediates[2] is found.pooled
    with pytest.raises(ValueError, match=r"intermediates \[3\] are not blocks of this encoder, which are 0 to 2"):
        module(EncoderInputs(x, intermediates=(3,)))


def test_wrong_inputs_and_values_are_named():
    spec = SeriesTransformer(length=6, width=8, depth=1, heads=2)
    with pytest.raises(ValueError, match=r"a series of 6 time steps has shape \[B,6,C\], got \[B,...\] of \(7, 3\)"):
        spec.build(nnx.Rngs(0), inputs=Field((7, 3), "float32"))
    with pytest.raises(ValueError, match="a series of 9 time steps"):
        SeriesConvolutions(length=9, channels=(2,)).build(nnx.Rngs(0), inputs=Field((7, 3), "float32"))
    with pytest.raises(ValueError, match="a perceptron reads vectors of numbers"):
        Perceptron().build(nnx.Rngs(0), inputs=Field((7, 3), "float32"))
    assert problems(dataclasses.replace(spec, kernel=2))
    assert "do not fit" in problems(SeriesConvolutions(length=9))[0]
    assert problems(Perceptron(widths=()))
