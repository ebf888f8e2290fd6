"""The regressor of hidden tokens against NumPy in float64, by the equations of the released code."""

import math
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders import ContextRegressor, SequenceRotary
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.positions import sincos_positions
from jaxrep.params import split
from jaxrep.spec import problems

D, HEADS, GRID = 8, 2, (2, 3)
SPEC = ContextRegressor(width=D, depth=2, heads=HEADS, layer_scale=0.1, key_bias=False)
RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.normal(size=(3, 2, D)).astype(np.float32)
SHOWN = np.array([[0, 4], [1, 2], [3, 5]], np.int32)
HIDDEN = np.array([[1, 2, 3, 5], [0, 3, 4, 5], [0, 1, 2, 4]], np.int32)


def built(spec: Any = SPEC) -> tuple[Any, Any]:
    structure, shapes = split(nnx.eval_shape(lambda: spec.build(nnx.Rngs(0), inputs=Field((2, D), "float32"))))
    draw = np.random.default_rng(1)
    return structure, {path: 0.5 * draw.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()}


def norm(x, arrays, name):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
    return x * arrays[f"{name}/scale"] + arrays[f"{name}/bias"]


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def regressed(arrays: dict[str, Any], tokens: Any, shown: Any, hidden: Any) -> Any:
    """One row: tokens [n,D] at the places ``shown``, and queries at ``hidden``."""
    arrays = {path: x.astype(np.float64) for path, x in arrays.items()}
    positions = sincos_positions(GRID, D, endpoint=False).astype(np.float64)
    h = np.tile(arrays["query"], (len(hidden), 1))
    for layer in range(2):
        block = {path.removeprefix("blocks/"): x[layer] for path, x in arrays.items() if path.startswith("blocks/")}
        both = np.concatenate([tokens, h])
        read_query = norm(h + positions[hidden], block, "norm_query")
        read_key = norm(both + positions[np.concatenate([shown, hidden])], block, "norm_key")
        read_value = norm(both, block, "norm_value")
        query = np.einsum("nd,dhk->hnk", read_query, block["attention/query/kernel"])
        query += block["attention/query/bias"][:, None]
        key = np.einsum("nd,dhk->hnk", read_key, block["attention/key/kernel"])
        value = np.einsum("nd,dhk->hnk", read_value, block["attention/value/kernel"])
        value += block["attention/value/bias"][:, None]
        logits = query @ key.transpose(0, 2, 1) * (D // HEADS) ** -0.5
        weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        heads = np.einsum("hnm,hmk->nhk", weights, value)
        out = np.einsum("nhk,hkd->nd", heads, block["attention/out/kernel"]) + block["attention/out/bias"]
        h = norm(h + block["scale1"] * out, block, "norm2")
        inner = gelu(h @ block["mlp/up/kernel"] + block["mlp/up/bias"])
        h = h + block["scale2"] * (inner @ block["mlp/down/kernel"] + block["mlp/down/bias"])
    return norm(h, arrays, "norm")


def test_features_equal_those_of_the_equations():
    structure, arrays = built()
    output = structure.merge(arrays)(EncoderInputs(TOKENS, keep=SHOWN, grid=GRID))
    np.testing.assert_array_equal(output.kept, HIDDEN)
    expected = np.stack([regressed(arrays, *row) for row in zip(TOKENS, SHOWN, HIDDEN, strict=True)])
    np.testing.assert_allclose(output.tokens, expected, atol=2e-5)  # float32
    np.testing.assert_allclose(output.pooled, expected.mean(axis=1), atol=2e-5)


@pytest.mark.parametrize("changes", [{"remat": "full"}, {"scan": False}, {"remat": "none", "mlp_parts": 3}])
def test_how_blocks_run_changes_neither_values_nor_gradients(changes):
    def value_and_gradients(spec):
        structure, arrays = built(spec)
        inputs = EncoderInputs(TOKENS, keep=SHOWN, grid=GRID)
        return jax.value_and_grad(lambda arrays: (structure.merge(arrays)(inputs).tokens ** 2).sum())(arrays)

    (value, gradients), (other, others) = (value_and_gradients(spec) for spec in (SPEC, replace(SPEC, **changes)))
    np.testing.assert_allclose(other, value, rtol=1e-5)
    for path, gradient in gradients.items():
        np.testing.assert_allclose(others[path], gradient, rtol=1e-3, atol=1e-3, err_msg=path)


def test_tokens_that_are_not_real_are_not_read():
    structure, arrays = built()
    module, valid = structure.merge(arrays), np.array([[True, False]] * 3)
    alone = module(EncoderInputs(TOKENS, valid, keep=SHOWN, grid=GRID)).tokens
    other = module(EncoderInputs(TOKENS + np.array([[0.0], [7.0]], np.float32), valid, keep=SHOWN, grid=GRID)).tokens
    np.testing.assert_allclose(alone, other, atol=1e-6)
    assert np.abs(alone - module(EncoderInputs(TOKENS, keep=SHOWN, grid=GRID)).tokens).max() > 1e-3


def test_fields_without_effect_and_other_widths_are_refused():
    assert problems(SPEC) == []
    unread: Any = (dict(norm="post"), dict(rotary=SequenceRotary()), dict(memory=8), dict(attention="pallas"))
    for changes in unread:
        sentences = problems(ContextRegressor(width=D, heads=1, **changes))
        assert any(f"{next(iter(changes))} has no effect on the blocks of a regressor" in x for x in sentences)
    with pytest.raises(ValueError, match="a regressor has the width of the features that it regresses, 6: got 8"):
        SPEC.build(nnx.Rngs(0), inputs=Field((2, 6), "float32"))
