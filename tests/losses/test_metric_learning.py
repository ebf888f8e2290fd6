"""Compare losses of metric learning with loops in float64, with clean and mixed labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.losses.metric_learning import metric_losses

A, N, D = 5, 9, 4
RANDOM = np.random.default_rng(0)


def unit(*shape):
    x = RANDOM.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


ANCHORS, ITEMS = unit(A, D), unit(N, D)
TARGETS = RANDOM.choice([0.0, 1.0, 0.3], size=(A, N))
INCLUDED = RANDOM.random((A, N)) < 0.8


TARGETS[2] = np.minimum(TARGETS[2], 0)  # an anchor without an item of its class


def plain(anchors, items, kind):
    """Compute pair by pair the functions of the paper's table 1; proxies as in Kim et al. 2020, equation 4."""
    losses = []
    pulling = sum(
        any(y > 0 and here for y, here in zip(*row, strict=True)) for row in zip(TARGETS, INCLUDED, strict=True)
    )
    for a, targets, included in zip(anchors, TARGETS, INCLUDED, strict=True):
        pull = push = 0.0
        for v, y, here in zip(items, targets, included, strict=True):
            s = float(a @ v)
            if not here:
                continue
            if kind == "contrastive":
                pull, push = pull + y * -s, push + (1 - y) * max(s - 0.5, 0)
            elif kind == "multi_similarity":
                pull, push = pull + y * np.exp(-18 * (s - 0.77)), push + (1 - y) * np.exp(75 * (s - 0.77))
            else:
                pull, push = pull + y * np.exp(-32 * (s - 0.1)), push + (1 - y) * np.exp(32 * (s + 0.1))
        if kind == "contrastive":
            losses.append(pull + push)
        elif kind == "multi_similarity":
            losses.append(np.log(1 + pull) / 18 + np.log(1 + push) / 75)
        else:
            losses.append(np.log(1 + pull) * A / pulling + np.log(1 + push))
    return np.array(losses)


@pytest.mark.parametrize("kind", ["contrastive", "multi_similarity", "proxy_anchor"])
def test_value_and_gradient_equal_loops(kind):
    def total(anchors, items):
        return jnp.sum(metric_losses(anchors, items, jnp.asarray(TARGETS, jnp.float32), INCLUDED, kind=kind))

    a, v = jnp.asarray(ANCHORS, jnp.float32), jnp.asarray(ITEMS, jnp.float32)
    found = metric_losses(a, v, jnp.asarray(TARGETS, jnp.float32), INCLUDED, kind=kind)
    np.testing.assert_allclose(found, plain(ANCHORS, ITEMS, kind), rtol=2e-5)  # float32, exponents up to 50
    gradients = jax.grad(total, argnums=(0, 1))(a, v)
    for number, (x, gradient) in enumerate(zip((ANCHORS, ITEMS), gradients, strict=True)):
        for place in [(0, 0), (2, 3), (4, 1)]:
            step = np.zeros_like(x)
            step[place] = 1e-6
            sides = [[ANCHORS, ITEMS], [ANCHORS, ITEMS]]
            sides[0][number], sides[1][number] = x + step, x - step
            slope = (plain(*sides[0], kind).sum() - plain(*sides[1], kind).sum()) / 2e-6
            np.testing.assert_allclose(gradient[place], slope, rtol=2e-4, atol=2e-5)  # central differences


def test_anchor_without_pairs_has_zero_loss_and_gradient():
    for kind in ("contrastive", "multi_similarity", "proxy_anchor"):
        value, gradient = jax.value_and_grad(
            lambda a, kind=kind: jnp.sum(metric_losses(a, a, jnp.eye(3), jnp.zeros((3, 3), bool), kind=kind))
        )(jnp.asarray(unit(3, D), jnp.float32))
        assert value == 0 and not np.asarray(gradient).any()


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind"):
        metric_losses(jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.ones((1, 1)), jnp.ones((1, 1), bool), kind="triplet")  # type: ignore
