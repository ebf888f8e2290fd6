"""Moments in bfloat16 with an error term: 24 bits of each number, whose small changes are not lost."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrep.mesh import Mesh
from jaxrep.optim.moments import CompactMoments, compact, expanded, high, join, low
from jaxrep.optim.muon import Muon
from jaxrep.optim.optimizers import Adam, AdamW, Lamb
from jaxrep.params import digests
from jaxrep.paths import flatten
from jaxrep.step.train_state import abstract_state
from tests.helpers import harness
from tests.helpers.harness import RECIPE


def kept(x):
    return np.asarray(join(high(jnp.asarray(x)), low(jnp.asarray(x))))


def test_numbers_are_rounded_to_a_significand_of_sixteen_bits():
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=100_000) * 10.0 ** rng.integers(-30, 30, 100_000))
    assert high(jnp.asarray(x)).dtype == jnp.bfloat16 and low(jnp.asarray(x)).dtype == jnp.uint8
    np.testing.assert_allclose(kept(x), x, rtol=2.0**-16)
    short = np.float32(rng.integers(-(2**16), 2**16, 1000) * 2.0**-20)  # which fit
    np.testing.assert_array_equal(kept(short), short)
    np.testing.assert_array_equal(kept(kept(x)), kept(x))
    odd = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1.1754944e-38])
    odd = np.append(odd, np.uint32([0x7FFFFFFF, 0xFFFFFFFF]).view(np.float32))  # NaN with all bits of the fraction
    np.testing.assert_array_equal(np.isnan(kept(odd)), np.isnan(odd))
    np.testing.assert_allclose(kept(odd), odd, rtol=2.0**-16, atol=2e-40)


def test_a_moment_that_decays_slowly_follows_its_gradients_as_in_float64():
    """The mean of squares over 4,000 steps whose gradients grow slowly; bfloat16 alone stands still."""
    steps, decay = 4000, 0.999
    gradients = np.random.default_rng(1).normal(size=(steps, 32)) * np.linspace(1, 1.5, steps)[:, None]
    adam = compact(optax.scale_by_adam(0.9, decay))

    def update(carry, g):
        state, plain = carry
        new = adam.update(g, state)[1]
        plain = (decay * plain.astype(jnp.float32) + (1 - decay) * g * g).astype(jnp.bfloat16)
        return (new, plain), None

    start = adam.init(jnp.zeros(32)), jnp.zeros(32, jnp.bfloat16)
    (state, plain), _ = jax.jit(lambda g: jax.lax.scan(update, start, g))(jnp.asarray(gradients, jnp.float32))
    weights = decay ** np.arange(steps - 1, -1, -1)
    expected = (1 - decay) * np.einsum("s,sd->d", weights, gradients**2)
    np.testing.assert_allclose(expanded(state).nu, expected, rtol=2e-3)
    assert np.abs(np.asarray(plain, np.float64) / expected - 1).max() > 0.1  # so the error term is needed
    assert state.nu.dtype == jnp.bfloat16 and state.nu_error.dtype == jnp.uint8


OPTIMIZERS = [AdamW(b2=0.98), AdamW(clip_updates=True), Adam(), Lamb(), Muon(matrices=("**/kernel",))]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["adamw", "stable", "adam", "lamb", "muon"])
def test_updates_are_nearly_those_of_float32(optimizer):
    rng = np.random.default_rng(2)
    params = {
        "image/blocks/mlp/up/kernel": rng.normal(size=(3, 4, 8)).astype("float32"),
        "image/blocks/mlp/up/bias": rng.normal(size=(3, 8)).astype("float32"),
    }
    gradients = {path: rng.normal(size=(20, *value.shape)).astype("float32") for path, value in params.items()}

    def directions(optimizer):
        direction = optimizer.direction()
        decay = {path: jnp.float32(0.1) for path in params}

        def update(state, g):
            found, state = direction.update(g, state, params, decay=decay)
            return state, found

        return jax.jit(lambda g: jax.lax.scan(update, direction.init(params), g))(gradients)

    _, expected = directions(optimizer)
    state, found = directions(dataclasses.replace(optimizer, moments="bfloat16"))
    for path in params:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-4, atol=1e-4, err_msg=path)
    is_compact = lambda x: isinstance(x, CompactMoments)  # noqa: E731
    assert any(map(is_compact, jax.tree.leaves(state, is_leaf=is_compact)))


def test_compact_moments_lie_as_their_parameters_and_take_three_quarters():
    def optimizer_state(moments):
        recipe = RECIPE.replace(optimizer=AdamW(moments=moments), mesh=Mesh(fsdp=2, min_shard_size=1))
        shapes, mesh = harness.traced(recipe), recipe.mesh.build(jax.devices()[:2])
        return flatten(abstract_state(recipe, shapes, shapes.updater(recipe), mesh).optimizer)

    plain, small = optimizer_state("float32"), optimizer_state("bfloat16")
    size = [sum(x.size * x.dtype.itemsize for x in state.values() if x.ndim) for state in (plain, small)]
    assert size[1] == size[0] * 3 // 4 > 0
    for path, leaf in small.items():
        name = path.replace("mu_error", "mu").replace("nu_error", "nu")
        assert leaf.sharding == plain[name].sharding and leaf.shape == plain[name].shape, path


def test_digests_know_both_parts():
    x = jnp.asarray(np.random.default_rng(3).normal(size=40).astype("float32"))
    found = digests({"mu": high(x), "mu_error": low(x)})
    assert found != digests({"mu": high(x), "mu_error": low(x).at[0].add(1)})
