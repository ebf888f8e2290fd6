"""Multinomial logistic regression with an L2 penalty, fitted by L-BFGS, and the search for the penalty's strength.

The device computes value and gradient, in blocks and in closed form; SciPy's L-BFGS runs on the host.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Float, Int

BLOCK = 4096
STEPS_PER_DECADE, DECADES = 8, 6


class LinearClassifier(NamedTuple):
    """Hold a linear classifier with the logits ``features @ weights.T + bias``."""

    weights: np.ndarray  # float64 [K,D]
    bias: np.ndarray  # float64 [K]


class LogisticRegression:
    """Fit the same features and labels with several strengths of the penalty, each from the previous solution.

    In place of one label a row may have a weight for each class (a row of zeros does not count): it equals several rows
    with the same features.
    """

    def __init__(
        self,
        features: Float[np.ndarray, "N D"],
        labels: Int[np.ndarray, " N"] | Float[np.ndarray, "N K"],
        classes: int,
        max_iterations: int = 1000,
    ):
        n, width = features.shape
        # Centered and scaled features have the same minimum, as the bias has no penalty, and lose less in float32.
        self._mean = features.mean(axis=0, dtype=np.float64)
        self._scale = max(float(np.sqrt(features.var(axis=0, dtype=np.float64).mean())), 1e-12)
        size = min(BLOCK, 1 << max(n - 1, 0).bit_length())
        padded = -(-n // size) * size
        rows = np.zeros((padded, width + 1), np.float32)  # rows of zeros pad the last block and do not count
        rows[:n, :-1], rows[:n, -1] = (features - self._mean) / self._scale, 1
        soft = labels.ndim == 2
        labels = np.pad(labels, ((0, padded - n), (0, 0))[: labels.ndim]).astype(np.float32 if soft else np.int32)
        labels = labels.reshape(-1, size, *labels.shape[1:])
        self._blocks = jnp.asarray(rows.reshape(-1, size, width + 1)), jnp.asarray(labels)
        self._n = float(labels.sum(dtype=np.float64)) if soft else n
        self._max_iterations = max_iterations
        self._table = np.zeros((classes, width + 1))

    def fit(self, l2: float) -> LinearClassifier:
        """Minimize ``sum_i CE(W x_i + b, y_i) + l2 / 2 |W|^2`` over weights W and biases b.

        With weights y the first part is ``sum_ik y_ik CE(W x_i + b, k)``. It is scikit-learn's
        ``LogisticRegression(C=1 / l2)``. The device computes in float32, so the gradient of the mean loss ends below
        1e-5, or at the limit of rounding.
        """

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            table = jnp.asarray(flat.reshape(self._table.shape), jnp.float32)
            value, gradient = _objective(table, *self._blocks, l2 / self._n / self._scale**2, 1 / self._n)
            return float(value), np.asarray(gradient, np.float64).ravel()

        result = scipy.optimize.minimize(
            objective,
            self._table.ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": self._max_iterations, "maxfun": 2 * self._max_iterations, "gtol": 1e-5, "ftol": 1e-9},
        )
        self._table = result.x.reshape(self._table.shape)
        weights = self._table[:, :-1] / self._scale
        return LinearClassifier(weights, self._table[:, -1] - weights @ self._mean)


@jax.jit
def _objective(table: jax.Array, features: jax.Array, labels: jax.Array, l2: float, share: float):
    """Return value and gradient [K,D+1] of ``share`` times the summed cross-entropies plus the penalty.

    The penalty is ``l2 / 2`` times the squares of all weights but the biases, the last column. Features are [M,B,D+1]
    and labels [M,B] or weights [M,B,K], in blocks.
    """
    product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def add(total: tuple[jax.Array, jax.Array], block: tuple[jax.Array, jax.Array]):
        x, y = block
        log = jax.nn.log_softmax(product(x, table.T), axis=1)
        y = y if y.ndim == 2 else jax.nn.one_hot(y, len(table)) * x[:, -1:]
        error = jnp.exp(log) * y.sum(axis=1, keepdims=True) - y
        return (total[0] - (y * log).sum(axis=1).sum(), total[1] + product(error.T, x)), None

    (loss, gradient), _ = jax.lax.scan(add, (jnp.zeros(()), jnp.zeros_like(table)), (features, labels))
    weights = table.at[:, -1].set(0)
    return share * loss + l2 / 2 * (weights**2).sum(), share * gradient + l2 * weights


def search_l2(score: Callable[[float], float]) -> float:
    """Return the strength with the highest ``score``, of 97 from 1e6 to 1e-6 in equal steps of the logarithm.

    Every second decade is tried first; then the interval around the best is halved until it is an eighth of a decade
    (Radford et al. 2021, CLIP, appendix A.3). The stronger penalty wins a tie.
    """
    limit, step = STEPS_PER_DECADE * DECADES, 2 * STEPS_PER_DECADE
    scores = {index: score(_strength(index)) for index in range(limit, -limit - 1, -step)}
    best = max(scores, key=lambda index: (scores[index], index))
    while step > 1:
        step //= 2
        for index in (best + step, best - step):
            if abs(index) <= limit:
                scores[index] = score(_strength(index))
        best = max(scores, key=lambda index: (scores[index], index))
    return _strength(best)


def _strength(index: int) -> float:
    return 10 ** (index / STEPS_PER_DECADE)
