"""The step: what it changes, what it leaves, and what it tells."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import LogitScale
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.wrappers import Matryoshka
from jaxrep.optim.ema import ParameterEma
from jaxrep.optim.optimizers import AdamW
from jaxrep.optim.rules import Freeze
from jaxrep.paths import flatten
from jaxrep.recipe import Logging
from jaxrep.schedules import Constant, Schedule
from jaxrep.spec import spec
from jaxrep.step.train_state import initial_state
from jaxrep.step.train_step import kept_outputs, make_step
from tests.helpers.harness import QUICK, RECIPE, batch, set_up, tiny

BROKEN = (2, 3)
STEPS = 5


@spec
class Breaks(Schedule):
    """1, and not a number at some steps."""

    def __call__(self, ctx):
        return jnp.where(jnp.isin(ctx.step, jnp.array(BROKEN)), jnp.nan, 1.0)


SCALE = LogitScale(init=14.0, min=13.0, max=15.0)
STEPPED = RECIPE.replace(
    method=DualEncoder(towers={"image": tiny.Patches(dropout=0.1), "text": tiny.Ids()}, dim=4, scale=SCALE),
    objective={"contrastive": Contrastive("image", "text", weight=Breaks())},
    optimizer=AdamW(rules=(Freeze(path="text/**"),), weight_decay=Constant(value=0.1)),
    ema=ParameterEma(momentum=Constant(value=0.5), warmup=False),
    log=Logging(every_steps=2, tensorboard=False),
    schedule=Constant(value=0.1),
)
LOG_SCALE = "scale/log"


def copied(state):
    """On the host, in memory of its own: a view of the device's would keep it from being donated."""
    return jax.tree.map(np.array, state)


@pytest.fixture(scope="module")
def run():
    """States on the host, before each step and after the last; metrics of each; the device's first state, donated."""
    setup = set_up(STEPPED)
    step = jax.jit(
        make_step(STEPPED, setup.shapes, setup.updater, setup.total_steps), donate_argnums=0, compiler_options=QUICK
    )
    first = state = jax.jit(lambda: initial_state(STEPPED, setup.shapes, setup.updater), compiler_options=QUICK)()
    states, metrics = [copied(state)], []
    for number in range(STEPS):
        state, found = step(state, batch(number))
        states.append(copied(state))
        metrics.append(jax.device_get(found))
    return states, metrics, first


def test_nonfinite_loss_skips_update(run):
    states, metrics, _ = run
    for number in BROKEN:
        before, after = states[number], states[number + 1]
        assert np.isnan(metrics[number]["loss"])
        for name in ("params", "non_trainable", "optimizer", "ema", "key"):
            jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    assert [int(state.step) for state in states] == list(range(STEPS + 1))
    assert [int(state.skipped) for state in states] == [0, 0, 0, 1, 2, 0]
    assert [int(found["skipped"]) for found in metrics] == [0, 0, 1, 2, 0]
    (adam, *_), (later, *_) = (states[i].optimizer["unstacked"] for i in (2, 5))
    assert (int(adam.count), int(later.count)) == (2, 3)


def test_other_steps_change_every_parameter_and_its_average(run):
    states, _, _ = run
    for number in {*range(STEPS)} - {*BROKEN}:
        before, after = states[number], states[number + 1]
        for path, value in after.params.items():
            assert path == LOG_SCALE or np.abs(value - before.params[path]).max() > 1e-4, path
            # Two float32 roundings.
            np.testing.assert_allclose(after.ema[path], (before.ema[path] + value) / 2, rtol=1e-6, atol=1e-7)


def test_the_scale_is_held_within_its_limits_after_every_update(run):
    """A step of Adam is 0.1 at first, and from the start to either limit it is less."""
    states, metrics, _ = run
    low, high = np.float32(np.log(13.0)), np.float32(np.log(15.0))
    found = [float(state.params[LOG_SCALE]) for state in states]
    assert all(low <= value <= high for value in found)
    assert found[1] in (low, high)
    for number in range(STEPS):
        np.testing.assert_allclose(metrics[number]["scale"], np.exp(found[number]), rtol=1e-6)


def test_what_is_frozen_keeps_its_bits_and_has_no_moments(run):
    states, _, _ = run
    assert set(states[0].non_trainable) == {"text/embedding"}
    np.testing.assert_array_equal(states[-1].non_trainable["text/embedding"], states[0].non_trainable["text/embedding"])
    moments = states[0].optimizer["unstacked"][0].mu
    assert (
        moments.keys()
        == states[0].params.keys()
        == {"image/kernel", "image_head/kernel", "text_head/kernel", LOG_SCALE}
    )


def test_the_state_given_is_donated(run):
    kept = {path for path, leaf in flatten(run[2]).items() if not leaf.is_deleted()}
    assert kept == set()


def test_health_is_measured_on_logged_steps_only(run):
    _, metrics, _ = run
    names = {name for name in metrics[0] if name.startswith("embeddings/image-text/")}
    assert names
    for number, found in enumerate(metrics):
        logged = (number + 1) % STEPPED.log.every_steps == 0
        assert all(np.isfinite(found[name]) == logged for name in names), number


def test_metrics_are_scalars_and_say_loss_norms_and_rate(run):
    _, metrics, _ = run
    stated = {"loss", "loss/contrastive", "gradient_norm", "parameter_norm", "learning_rate", "skipped", "scale"}
    assert {name for name in metrics[0] if not name.startswith("embeddings/")} == stated
    assert all(np.ndim(value) == 0 for value in metrics[0].values())
    assert metrics[0]["learning_rate"] == np.float32(0.1)
    params = run[0][1].params.values()
    norm = np.sqrt(sum(np.sum(np.float64(value) ** 2) for value in params))
    np.testing.assert_allclose(metrics[0]["parameter_norm"], norm, rtol=1e-6)


def test_by_microbatch_the_step_is_the_same(run):
    recipe = STEPPED.replace(microbatch_size=4)
    setup = set_up(recipe)
    step = jax.jit(make_step(recipe, setup.shapes, setup.updater, setup.total_steps), compiler_options=QUICK)
    state, metrics = step(run[0][0], batch())
    # Adam's first step is the sign of the gradient times the rate, wherever the gradient is above rounding.
    for path, value in run[0][1].params.items():
        np.testing.assert_allclose(state.params[path], value, rtol=1e-4, atol=1e-5, err_msg=path)
    assert metrics.keys() == run[1][0].keys()
    for name in ("loss", "gradient_norm", "parameter_norm", "scale"):
        np.testing.assert_allclose(metrics[name], run[1][0][name], rtol=1e-5, err_msg=name)


def test_only_what_the_terms_read_is_kept_of_a_batch_in_microbatches():
    keep = kept_outputs(RECIPE)
    assert [name for name in ("image", "text", "image/tokens") if keep(name)] == ["image", "text"]
    cut = dataclasses.replace(RECIPE, objective={"cut": Matryoshka(Contrastive("image", "text"), (2,))})
    assert [name for name in ("image", "text", "image/tokens") if kept_outputs(cut)(name)] == ["image", "text"]
