"""Bags of words and their prediction equal float64 NumPy, and OBoW's released code on the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.bags import bag_cross_entropy, bags_of_words, nearest_word_distances
from jaxrep.mesh import ROWS, Mesh
from tests.helpers.loss_oracle import derivative

B, HEIGHT, WIDTH, C, K, V, E = 4, 5, 6, 3, 8, 2, 4
RNG = np.random.default_rng(8)
# The order of the draws is that of the run of the released code.
MAPS, WORDS = np.abs(RNG.normal(size=(B, HEIGHT, WIDTH, C))), np.abs(RNG.normal(size=(K, C)))
FIRST, LAST, LAST_BIAS, FEATURES = (RNG.normal(size=shape) for shape in ((C, 6), (6, E), (E,), (B, V, E)))
INSIDE = MAPS[:, 1:-1, 1:-1].reshape(B, -1, C)
# Of valeoai/obow, obow/builder_obow.py, run in float64 by torch: ``BoWExtractor`` (its average of the least distance
# after one batch, and the bags), and the loss of ``OBoW._bow_loss`` with the logits of ``BoWPredictor``.
RELEASED_MEAN = 0.5009269518447246
RELEASED_BAGS = np.array(
    [
        [1.93691559e-1, 1.86684811e-1, 1.89123540e-1, 4.28067536e-2,
         1.93664696e-1, 3.21839328e-4, 1.93691559e-1, 1.52409126e-5],
        [1.65852211e-1, 1.63356362e-1, 1.65837762e-1, 1.52915754e-1,
         1.65749897e-1, 2.03603859e-2, 1.65852292e-1, 7.53365041e-5],
        [1.86399850e-1, 1.43820084e-1, 1.86393545e-1, 2.15298220e-4,
         1.84731446e-1, 1.10809691e-1, 1.86399851e-1, 1.23023501e-3],
        [2.22034952e-1, 5.82479484e-2, 2.22033680e-1, 1.96010500e-3,
         2.18575188e-1, 5.51183495e-2, 1.16891059e-8, 2.22029765e-1],
    ]
)  # fmt: skip
RELEASED_DIVERGENCE, RELEASED_ENTROPY = 4.6221039961158885, 1.757787044673953
CLOSE = dict(rtol=5e-5, atol=2e-6)  # float32, exponents up to 30


def softmax(x):
    e = np.exp(x)
    return e / e.sum(-1, keepdims=True)


def distances(maps):
    return ((maps[:, :, None] - WORDS) ** 2).sum(-1)


def bags_by_hand(maps, sharpness):
    most = softmax(-sharpness * distances(maps)).max(1)
    return most / most.sum(-1, keepdims=True)


def word_weights():
    """Return the weights of the released ``BoWPredictor``: unit length, linear, batch norm over words, ReLU, linear."""
    h = WORDS / np.linalg.norm(WORDS, axis=1, keepdims=True) @ FIRST
    h = np.maximum((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5), 0) @ LAST + LAST_BIAS
    return h / np.linalg.norm(h, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 24, 512])
def test_bags_are_those_of_the_released_code(block):
    words, maps = jnp.float32(WORDS), jnp.float32(INSIDE)
    least = nearest_word_distances(maps, words, block_size=block)
    np.testing.assert_allclose(least, distances(INSIDE).min(-1), **CLOSE)
    mean = 0.99 * 0.5 + 0.01 * np.float64(least).mean()
    np.testing.assert_allclose(mean, RELEASED_MEAN, rtol=1e-6)
    found = bags_of_words(maps, words, 15 / mean, block_size=block)
    np.testing.assert_allclose(found, RELEASED_BAGS, **CLOSE)
    np.testing.assert_allclose(found, bags_by_hand(INSIDE, 15 / mean), **CLOSE)


@pytest.mark.parametrize("block", [1, 6, 512])
def test_cross_entropy_is_the_released_divergence_and_the_entropy(block):
    args = [np.float32(x) for x in (FEATURES, word_weights(), RELEASED_BAGS)]
    found = bag_cross_entropy(*args, 8.0, block_size=block)
    np.testing.assert_allclose(found.mean() - RELEASED_ENTROPY, RELEASED_DIVERGENCE, rtol=1e-5)


def test_gradients_of_the_cross_entropy_equal_those_of_its_formula():
    def by_hand(x, weights):
        return -(np.log(softmax(2.0 * x @ weights.T)) * RELEASED_BAGS[:, None]).sum(-1).mean()

    def loss(x, weights, bags):
        return bag_cross_entropy(x, weights, bags, 2.0, block_size=4).mean()

    weights = word_weights()
    args = [np.float32(x) for x in (FEATURES, weights, RELEASED_BAGS)]
    value, slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*args)
    np.testing.assert_allclose(value, by_hand(FEATURES, weights), **CLOSE)
    np.testing.assert_allclose(slopes[0], derivative(lambda x: by_hand(x, weights), FEATURES), **CLOSE)
    np.testing.assert_allclose(slopes[1], derivative(lambda x: by_hand(FEATURES, x), weights), **CLOSE)
    assert not slopes[2].any()


def test_bags_have_no_gradient():
    slopes = jax.grad(lambda maps, words: jnp.sum(bags_of_words(maps, words, 9.0)[:, 0]), argnums=(0, 1))(
        jnp.float32(INSIDE), jnp.float32(WORDS)
    )
    assert not any(slope.any() for slope in slopes)


@pytest.mark.parametrize("devices", [2, 4])
def test_rows_over_devices_give_the_same_bags(devices):
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        maps = jax.device_put(np.float32(INSIDE), jax.NamedSharding(mesh, ROWS))
        found = jax.jit(lambda maps: bags_of_words(maps, jnp.float32(WORDS), 15 / RELEASED_MEAN))(maps)
    np.testing.assert_allclose(found, RELEASED_BAGS, **CLOSE)
