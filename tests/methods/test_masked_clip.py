"""A method written in a test: a dual encoder with an averaged teacher and hidden patches, in twenty lines."""

import contextlib
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.errors import UsageError
from jaxrep.methods.base import SELF, Method
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.methods.state import Ema
from jaxrep.objectives.base import Term
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.recipe import Checkpointing
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.schedules import Constant
from jaxrep.schedules import Linear as Line
from jaxrep.spec import problems, spec
from jaxrep.step.train_state import initial_state
from jaxrep.step.train_step import make_step
from jaxrep.views.base import View
from tests.helpers.harness import QUICK, RECIPE, batch, set_up, tiny

MOMENTUM = Line(start=0.5, end=0.9)


@spec
class MaskedClip(Method):
    """Images and texts agree, and hidden patches look as a teacher sees them."""

    image: Any = tiny.Patches()
    text: Any = tiny.Ids()
    image_head: Linear = Linear(features=4)
    text_head: Linear = Linear(features=4)
    codes: Linear = Linear(features=3, bias=True)
    scale: LogitScale = LogitScale()
    teacher: Ema = Ema(of=("image", "codes"), momentum=MOMENTUM)

    def parts(self, inputs):
        towers = {name: (getattr(self, name), inputs[name]) for name in ("image", "text")}
        heads = {name: (getattr(self, name), 6) for name in ("image_head", "text_head", "codes")}
        return {**towers, **heads, "scale": (self.scale, None), "teacher": (self.teacher, SELF)}

    def per_example(self, batch, ctx):
        v = self.image(batch["image"], ctx=ctx.at("image"))
        t = self.text(batch["text"], valid=batch["text/valid"], ctx=ctx.at("text"))
        m = self.image(batch["image"], masked=batch["image/masked"], ctx=ctx.at("image"))
        target = self.teacher.codes(self.teacher.image(batch["image"], ctx=ctx.at("image")).tokens)
        embeddings = {"image": self.image_head(v.pooled), "text": self.text_head(t.pooled)}
        return {**embeddings, "student": self.codes(m.tokens), "target": target}

    def per_step(self, tables, ctx):
        return {"scale": self.scale()}


@spec
class Hide(View):
    """Draws which of four patches are hidden."""

    def __call__(self, batch, ctx):
        masked = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (4,)))(ctx.keys("hide"))
        return {**batch, "image/masked": masked}


@spec
class Imitate(Term):
    """Mean square between student and target, over tokens."""

    separable: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("student", "target")  # pyright: ignore[reportIncompatibleMethodOverride]

    def per_example(self, outputs, batch, ctx):
        return jnp.mean((outputs["student"] - outputs["target"]) ** 2, axis=(1, 2))


METHOD = RECIPE.replace(
    method=MaskedClip(),
    views=(Hide(),),
    objective={"contrastive": Contrastive("image", "text"), "masked": Imitate(weight=Constant(value=3.0))},
)
FOLLOWED = {"image/kernel": "teacher/image/kernel"} | {
    f"codes/{name}": f"teacher/codes/{name}" for name in ("kernel", "bias")
}
STEPS = 4


@pytest.fixture(scope="module")
def trained():
    """The set-up, and the state before each step and after the last."""
    setup = set_up(METHOD)
    step = jax.jit(make_step(METHOD, setup.shapes, setup.updater, setup.total_steps), compiler_options=QUICK)
    state = jax.jit(lambda: initial_state(METHOD, setup.shapes, setup.updater), compiler_options=QUICK)()
    states, metrics = [state], []
    for number in range(STEPS):
        state, found = step(state, batch(number))
        states.append(state)
        metrics.append(jax.device_get(found))
    return setup, states, metrics


def test_the_teacher_is_the_average_of_the_student_since_the_start(trained):
    setup, states, _ = trained
    shares = [0.5 + 0.4 * number / setup.total_steps for number in range(STEPS)]
    for student, teacher in FOLLOWED.items():
        values = [np.float64(state.params[student]) for state in states]
        np.testing.assert_array_equal(states[0].rest[teacher], states[0].params[student])
        expected = np.prod(shares) * values[0]
        for number in range(STEPS):
            expected = expected + (1 - shares[number]) * np.prod(shares[number + 1 :]) * values[number + 1]
        # Four float32 roundings.
        np.testing.assert_allclose(states[-1].rest[teacher], expected, rtol=2e-6, atol=2e-7)
        assert np.abs(states[-1].rest[teacher] - states[-1].params[student]).max() > 1e-4


def test_no_optimizer_and_no_gradient_sees_the_teacher(trained):
    setup, states, _ = trained
    teachers = {path for path in setup.shapes.arrays if path.startswith("teacher/")}
    assert teachers == set(FOLLOWED.values()) == set(states[0].rest)
    assert not teachers & set(setup.shapes.structure.trainable)
    moments = jax.tree_util.tree_leaves_with_path(states[-1].optimizer)
    assert not any("teacher" in jax.tree_util.keystr(path) for path, _ in moments)


def test_every_part_of_the_student_learns_from_both_terms(trained):
    _, states, metrics = trained
    for path, value in states[-1].params.items():
        assert np.abs(value - states[0].params[path]).max() > 1e-4, path
    for found in metrics:
        np.testing.assert_allclose(found["loss"], found["loss/contrastive"] + 3 * found["loss/masked"], rtol=1e-6)
    assert metrics[0]["loss/masked"] > 0.01  # what is hidden is missed


def test_the_teacher_is_saved_and_restored(trained, tmp_path):
    _, states, _ = trained
    with contextlib.closing(Checkpoints(tmp_path, Checkpointing())) as checkpoints:
        checkpoints.save(STEPS, states[-1], {"position": 8 * STEPS})
        checkpoints.wait()
        restored, _ = checkpoints.restore(STEPS, jax.eval_shape(lambda: states[-1]))
    for teacher in FOLLOWED.values():
        np.testing.assert_array_equal(restored.rest[teacher], states[-1].rest[teacher])


def test_a_teacher_of_nothing_or_of_a_part_that_does_not_exist_is_told():
    assert problems(Ema(of=())) == ["of names no part: an average of nothing"]
    with pytest.raises(UsageError, match="the average of 'sound' was asked for, and the method has no such part"):
        set_up(METHOD.replace(method=MaskedClip(teacher=Ema(of=("sound",)))))
