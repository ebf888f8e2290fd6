"""Compare the hinge loss with NumPy in float64, in value and gradient."""

import jax
import numpy as np

from jaxrep.losses.metric_learning import hinge_loss
from tests.helpers import loss_oracle as oracle

B, D, MARGIN = 6, 4, 0.3
WEIGHTS = np.linspace(0.5, 2, B)


def written_out(a, positive, negative):
    total = 0.0
    for i in range(B):
        short_by = MARGIN - a[i] @ positive[i] + a[i] @ negative[i]
        total = total + WEIGHTS[i] * (short_by if short_by.real > 0 else 0.0)
    return total


def test_value_and_gradient_equal_oracle():
    values = [oracle.rows(seed, B, D) for seed in range(3)]
    want = oracle.value_and_derivatives(written_out, *values)
    kept = [not np.any(row) for row in want[1][1]]
    assert 0 < sum(kept) < B, "some rows keep the margin, and some do not"
    got = jax.jit(jax.value_and_grad(lambda a, b, c: WEIGHTS @ hinge_loss(a, b, c, MARGIN), (0, 1, 2)))(*values)
    oracle.assert_close(got, want, 1.0)


def test_equal_positive_and_negative_cost_the_margin():
    a, b = oracle.rows(0, B, D), oracle.rows(1, B, D)
    np.testing.assert_allclose(hinge_loss(a, b, b, MARGIN), MARGIN, rtol=1e-6)
    np.testing.assert_array_equal(hinge_loss(a, a, -a, MARGIN), 0)
