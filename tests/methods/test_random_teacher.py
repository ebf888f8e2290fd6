"""Random teachers: how a student starts, and that its teacher never moves."""

import contextlib
import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import INFERENCE
from jaxrep.encoders.base import EncoderInputs
from jaxrep.errors import UsageError
from jaxrep.methods.random_teacher import RandomTeacher
from jaxrep.methods.self_supervised.self_distillation import SelfDistillation
from jaxrep.objectives.distillation import Dino
from jaxrep.params import split
from jaxrep.recipe import Checkpointing
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.schedules import Constant
from jaxrep.step.train_step import make_step
from tests.helpers.harness import QUICK, batch, ctx, set_up, started, traced
from tests.methods.self_supervised.test_self_distillation import DINO, HEAD, VIT

OF, STEPS = ("image", "head"), 2
METHOD = SelfDistillation(
    image=replace(VIT, layer_scale=0.5, mask_token=False),
    head=HEAD,
    patch_head=None,
    teacher=RandomTeacher(of=OF, alpha=0.25),
    crops=("image",),
    hide=False,
    features="student",
)
PLAIN = Dino(local="", pairs="same", iterations=0, student_temperature=1.0, teacher_temperature=Constant(value=1.0))
RECIPE = DINO.replace(views=(), method=METHOD, objective={"same": PLAIN})


def method(alpha):
    return replace(METHOD, teacher=RandomTeacher(of=OF, alpha=alpha))


@functools.cache
def start(alpha):
    """Arrays of one seed by path."""
    inputs = traced(RECIPE).inputs
    build = jax.jit(lambda: split(method(alpha).build(nnx.Rngs(7), inputs=inputs))[1], compiler_options=QUICK)
    return jax.device_get(dict(build()))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5])
def test_student_starts_between_the_teacher_and_fresh_values(alpha):
    fresh = start(1.0)
    root, constants = np.sqrt(2 * alpha**2 - 2 * alpha + 1), []
    for path, value in start(alpha).items():
        if path.startswith("teacher/"):
            np.testing.assert_array_equal(value, fresh[path])  # whatever alpha is
            continue
        teacher, drawn = np.float64(fresh[f"teacher/{path}"]), np.float64(fresh[path])
        if np.ptp(drawn) == 0:
            constants.append(path)
            np.testing.assert_array_equal(value, drawn, err_msg=path)
        else:
            assert not np.any(teacher == drawn), path  # drawn independently
            expected = ((1 - alpha) * teacher + alpha * drawn) / root
            np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7, err_msg=path)
    ends = ("scale", "bias", "scale1", "scale2", "lengths")
    assert constants and all(path.rsplit("/")[-1] in ends for path in constants)


def test_fresh_values_are_those_of_the_method_without_a_teacher():
    alone = replace(METHOD, teacher=None)
    inputs = traced(RECIPE).inputs
    build = jax.jit(lambda: split(alone.build(nnx.Rngs(7), inputs=inputs))[1], compiler_options=QUICK)
    for path, value in jax.device_get(dict(build())).items():
        np.testing.assert_array_equal(value, start(1.0)[path], err_msg=path)


@pytest.fixture(scope="module")
def trained():
    """Return the setup and the states before and after each step."""
    setup = set_up(RECIPE)
    step = jax.jit(make_step(RECIPE, setup.shapes, setup.updater, STEPS), compiler_options=QUICK)
    states = [started(setup)]
    for number in range(STEPS):
        states.append(step(states[-1], batch(number))[0])
    return setup, states


def test_teacher_never_moves_and_has_neither_gradient_nor_optimizer_state(trained, tmp_path):
    setup, states = trained
    teacher = {path for path in setup.shapes.arrays if path.startswith("teacher/")}
    assert teacher == set(states[0].non_trainable) and not teacher & set(setup.shapes.structure.trainable)
    with contextlib.closing(Checkpoints(tmp_path, Checkpointing())) as checkpoints:
        checkpoints.save(STEPS, states[-1], {"position": 8 * STEPS})
        checkpoints.wait()
        restored, _ = checkpoints.restore(STEPS, jax.eval_shape(lambda: states[-1]))
    for path in teacher:
        np.testing.assert_array_equal(states[-1].non_trainable[path], states[0].non_trainable[path])
        np.testing.assert_array_equal(restored.non_trainable[path], states[0].non_trainable[path])
    moments = jax.tree_util.tree_leaves_with_path(states[-1].optimizer)
    assert not any("teacher" in jax.tree_util.keystr(path) for path, _ in moments)
    moved = [path for path, x in states[-1].params.items() if np.abs(x - states[0].params[path]).max() > 1e-6]
    # A rule of the recipe keeps the prototypes fixed in the first steps.
    assert set(states[0].params) - set(moved) <= {"image/blocks/attention/key/bias", "head/prototypes"}


def test_at_alpha_zero_no_gradient_is_left(trained):
    """Without batch norm student and teacher are equal, and the cross-entropy is least there."""
    setup, states = trained
    gradients = jax.jit(setup.shapes.computation.value_and_grad, compiler_options=QUICK)

    def norm(alpha):
        params, other = (
            {path: start(alpha)[path] for path in arrays} for arrays in (states[0].params, states[0].non_trainable)
        )
        return np.sqrt(sum(np.sum(np.square(x)) for x in gradients(params, other, batch(), ctx())[1].values()))

    assert norm(0.0) < 1e-3 * norm(0.25)  # rounding, over rows that are short before they get unit length


def test_features_are_those_of_the_student_beside_its_teacher(trained):
    setup, states = trained
    module = setup.shapes.structure.merge(states[-1].params, states[-1].non_trainable)

    images = batch()["image"]
    out = module.per_example({"image": images}, INFERENCE)
    np.testing.assert_array_equal(out["image"], module.image(EncoderInputs(images)).pooled)
    np.testing.assert_array_equal(out["teacher/image"], module.teacher.image(EncoderInputs(images)).pooled)
    assert np.abs(out["image"] - out["teacher/image"]).max() > 1e-3
    assert jnp.shape(out["image/tokens"]) == (8, 16, 8)


def test_missing_part_of_a_teacher_is_named():
    wrong = replace(METHOD, teacher=RandomTeacher(of=("image", "patch_head")))
    with pytest.raises(UsageError, match="teacher: the method has no part 'patch_head' to draw again"):
        traced(RECIPE.replace(method=wrong))
