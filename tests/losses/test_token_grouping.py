"""Compare token grouping with loops in NumPy, in value and gradient."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.losses import token_grouping
from tests.helpers import loss_oracle as oracle

B, N, V, D = 2, 5, 3, 4
grouped: Any = token_grouping.group_tokens
WEIGHTS = np.random.default_rng(9).normal(size=(B, V, D))


def rows(seed, count):
    return oracle.rows(seed, B * count, D).reshape(B, count, D)


def by_loops(tokens, texts, threshold):
    out = np.zeros((B, V, D), np.result_type(tokens, texts))
    for b in range(B):
        for v in range(V):
            cosines: Any = np.array([token @ texts[b, v] for token in tokens[b]])
            least, most = cosines[np.argmin(cosines.real)], cosines[np.argmax(cosines.real)]
            shares = (cosines - least) / (most - least)
            shares = np.where(shares.real < threshold, 0, shares)
            out[b, v] = shares @ tokens[b] / shares.sum()
    return out


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_value_and_gradient_equal_oracle(threshold):
    values = rows(0, N), rows(1, V)
    want = oracle.value_and_derivatives(
        lambda tokens, texts: (WEIGHTS * by_loops(tokens, texts, threshold)).sum(), *values
    )
    function = lambda tokens, texts: (WEIGHTS * grouped(tokens, texts, threshold)).sum()  # noqa: E731
    got = jax.jit(jax.value_and_grad(function, argnums=(0, 1)))(*values)
    oracle.assert_close(got, want, 4.0)  # a share is divided by the range of the cosines, which is above 1/4
    np.testing.assert_allclose(grouped(*values, threshold), by_loops(*map(np.float64, values), threshold), atol=1e-6)


def test_tokens_below_threshold_have_no_weight():
    tokens = np.eye(4, dtype=np.float32)[None]
    text = np.array([[[0.9, 0.3, 0.2, 0.0]]], np.float32)
    np.testing.assert_allclose(grouped(tokens, text, 0.3)[0, 0], [0.75, 0.25, 0, 0], atol=1e-6)


def test_equal_tokens_give_zeros_and_finite_gradients():
    tokens = np.tile(rows(0, 1), (1, N, 1))
    function = functools.partial(grouped, threshold=0.1)
    found, pull = jax.vjp(function, tokens, rows(1, V))
    np.testing.assert_allclose(found, 0, atol=1e-6)
    assert all(np.isfinite(slope).all() for slope in pull(WEIGHTS.astype(np.float32)))
