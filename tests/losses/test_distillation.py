"""Compare the softmax divergence with its definition in NumPy, in value and gradient."""

import jax
import numpy as np
import pytest

from jaxrep.losses.distillation import softmax_divergence
from tests.helpers.loss_oracle import derivative


def softmax(x):
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_softmax_divergence_equals_definition(temperature):
    student, teacher = np.random.default_rng(0).normal(size=(2, 3, 5))

    def by_hand(student, teacher):
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        return temperature**2 * np.mean(np.sum(p * (np.log(p) - np.log(q)), -1))

    value, slopes = jax.value_and_grad(softmax_divergence, argnums=(0, 1))(
        student.astype(np.float32), teacher.astype(np.float32), temperature
    )
    # float32 rounding of sums of a few numbers near one.
    close = dict(rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(value, by_hand(student, teacher), **close)
    np.testing.assert_allclose(slopes[0], derivative(lambda x: by_hand(x, teacher), student), **close)
    np.testing.assert_allclose(slopes[1], derivative(lambda x: by_hand(student, x), teacher), **close)
    with pytest.raises(ValueError, match="both are rows of one width"):
        softmax_divergence(student, teacher[:, :2])
