"""A method written in a test: a dual encoder with an averaged teacher and masked patches, in twenty lines."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.encoders.base import EncoderInputs
from jaxrep.errors import UsageError
from jaxrep.methods.base import SELF, Method
from jaxrep.methods.heads import Linear, LogitScale
from jaxrep.methods.state import Ema
from jaxrep.objectives.base import SeparableTerm
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
    """Contrast images and texts, and predict a teacher's codes of masked patches."""

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
        inputs = EncoderInputs(batch["image"], ctx=ctx.at("image"))
        image = self.image(inputs)
        text = self.text(EncoderInputs(batch["text"], batch["text/valid"], ctx=ctx.at("text")))
        masked = self.image(replace(inputs, masked=batch["image/masked"]))
        target = self.teacher.codes(self.teacher.image(inputs).tokens)
        embeddings = {"image": self.image_head(image.pooled), "text": self.text_head(text.pooled)}
        return {**embeddings, "student": self.codes(masked.tokens), "target": target}

    def per_step(self, tables, ctx):
        return {"scale": self.scale()}


@spec
class Mask(View):
    """Draw which of four patches are masked."""

    def __call__(self, batch, ctx):
        masked = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, (4,)))(ctx.keys("hide"))
        return {**batch, "image/masked": masked}


@spec
class Imitate(SeparableTerm):
    """Return the mean square between student and target, over tokens."""

    reads: ClassVar[tuple[str, ...]] = ("student", "target")  # pyright: ignore[reportIncompatibleMethodOverride]

    def per_example(self, outputs, batch, ctx):
        return jnp.mean((outputs["student"] - outputs["target"]) ** 2, axis=(1, 2))


METHOD = RECIPE.replace(
    method=MaskedClip(),
    views=(Mask(),),
    objective={"contrastive": Contrastive("image", "text"), "masked": Imitate(weight=Constant(value=3.0))},
)
FOLLOWED = {"image/kernel": "teacher/image/kernel"} | {
    f"codes/{name}": f"teacher/codes/{name}" for name in ("kernel", "bias")
}
STEPS = 4


@pytest.fixture(scope="module")
def trained():
    """Return the setup, the state before each step and after the last, and the metrics."""
    setup = set_up(METHOD)
    step = jax.jit(make_step(METHOD, setup.shapes, setup.updater, setup.total_steps), compiler_options=QUICK)
    state = jax.jit(lambda: initial_state(METHOD, setup.shapes, setup.updater), compiler_options=QUICK)()
    states, metrics = [state], []
    for number in range(STEPS):
        state, found = step(state, batch(number))
        states.append(state)
        metrics.append(jax.device_get(found))
    return setup, states, metrics


def test_teacher_is_the_average_of_the_student(trained):
    setup, states, _ = trained
    shares = [0.5 + 0.4 * number / setup.total_steps for number in range(STEPS)]
    for student, teacher in FOLLOWED.items():
        values = [np.float64(state.params[student]) for state in states]
        np.testing.assert_array_equal(states[0].non_trainable[teacher], states[0].params[student])
        expected = np.prod(shares) * values[0]
        for number in range(STEPS):
            expected = expected + (1 - shares[number]) * np.prod(shares[number + 1 :]) * values[number + 1]
        # Four float32 roundings.
        np.testing.assert_allclose(states[-1].non_trainable[teacher], expected, rtol=2e-6, atol=2e-7)
        assert np.abs(states[-1].non_trainable[teacher] - states[-1].params[student]).max() > 1e-4


def test_teacher_has_no_gradient_or_optimizer_state(trained):
    setup, states, _ = trained
    teachers = {path for path in setup.shapes.arrays if path.startswith("teacher/")}
    assert teachers == set(FOLLOWED.values()) == set(states[0].non_trainable)
    assert not teachers & set(setup.shapes.structure.trainable)
    moments = jax.tree_util.tree_leaves_with_path(states[-1].optimizer)
    assert not any("teacher" in jax.tree_util.keystr(path) for path, _ in moments)


def test_every_parameter_of_the_student_is_updated(trained):
    _, states, metrics = trained
    for path, value in states[-1].params.items():
        assert np.abs(value - states[0].params[path]).max() > 1e-4, path
    for found in metrics:
        np.testing.assert_allclose(found["loss"], found["loss/contrastive"] + 3 * found["loss/masked"], rtol=1e-6)
    assert metrics[0]["loss/masked"] > 0.01  # masked patches are missing


def test_teacher_is_saved_and_restored(trained, tmp_path):
    _, states, _ = trained
    with contextlib.closing(Checkpoints(tmp_path, Checkpointing())) as checkpoints:
        checkpoints.save(STEPS, states[-1], {"position": 8 * STEPS})
        checkpoints.wait()
        restored, _ = checkpoints.restore(STEPS, jax.eval_shape(lambda: states[-1]))
    for teacher in FOLLOWED.values():
        np.testing.assert_array_equal(restored.non_trainable[teacher], states[-1].non_trainable[teacher])


def test_missing_parts_of_an_average_are_named():
    assert problems(Ema(of=())) == ["of names one part at least"]
    with pytest.raises(UsageError, match="the method has no part 'sound' to average"):
        set_up(METHOD.replace(method=MaskedClip(teacher=Ema(of=("sound",)))))
    absent: Any = SimpleNamespace(image=None)
    with pytest.raises(ValueError, match="the method has no part 'image' to average"):
        Ema(of=("image",)).build(nnx.Rngs(0), inputs=absent)
