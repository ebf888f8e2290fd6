"""A dual encoder with a teacher of one tower: the objective is CLIP's per global view plus DINO's."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE
from jaxrep.methods.dual_encoder.distilled import DistilledDualEncoder
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.self_supervised.prototype_head import PrototypeHead
from jaxrep.methods.state import Ema
from jaxrep.model import Model
from jaxrep.objectives.base import evaluate
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.distillation import Dino
from jaxrep.objectives.wrappers import EachView
from jaxrep.schedules import Constant, Ramp
from jaxrep.spec import problems
from jaxrep.views.fields import CopyField
from jaxrep.views.geometry import RandomResizedCrop
from tests.helpers import harness
from tests.helpers.harness import QUICK, RECIPE, batch, ctx, exact, tiny

DUAL = DualEncoder(towers={"image": tiny.Patches(), "text": tiny.Ids()}, shared_towers={"local": "image"}, dim=4)
METHOD = DistilledDualEncoder(
    dual=DUAL, head=PrototypeHead(prototypes=6, hidden=8, width=5), teacher=Ema(of=("image", "head"))
)
DISTILLED: Any = RECIPE.replace(
    views=(
        CopyField("image", out="local", count=3),
        CopyField("image", out="image", count=2),
        RandomResizedCrop("image", size=8, scale=(0.5, 1.0)),
        RandomResizedCrop("local", size=8, scale=(0.2, 0.5)),
    ),
    method=METHOD,
    objective={
        "contrastive": EachView(Contrastive("image", "text"), field="image"),
        "dino": Dino(local="student/local", teacher_temperature=Ramp(start=0.05, end=0.1), weight=Constant(value=0.5)),
    },
)


def log_softmax(x, axis=-1):
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def balanced(logits):
    """[M,K] -> [M,K]: scaled in turn to equal sums of prototypes and of samples."""
    q = np.exp(logits)
    for _ in range(3):
        q /= q.sum(0, keepdims=True)
        q /= q.sum(1, keepdims=True)
    return q


def clip_by_hand(image, text, scale):
    """Radford et al. 2021, figure 3."""
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (image, text))
    logits = scale * x @ y.T
    return -sum(np.diag(log_softmax(logits, axis)).mean() for axis in (0, 1)) / 2


def dino_by_hand(out):
    """Every student's view with every teacher's view that is not the same; the mean over such pairs."""
    targets = balanced(out["teacher"].reshape(16, -1) @ out["teacher/prototypes"].T / 0.05).reshape(8, 2, -1)
    students = np.concatenate([out["student"], out["student/local"]], 1)
    predicted = log_softmax(students @ out["prototypes"].T / 0.1)
    losses = [-(targets[:, t] * predicted[:, s]).sum(-1).mean() for s in range(5) for t in range(2) if s != t]
    return np.mean(losses)


def test_objective_is_contrast_per_global_view_plus_distillation():
    found = harness.traced(DISTILLED)
    arrays = {path: jnp.asarray(0.5 * x) for path, x in harness.drawn(found.arrays).items()}

    @jax.jit
    def emit(rows):
        seen = found.computation.augment(rows, ctx())
        return found.computation.per_example(arrays, seen, ctx())[0], found.computation.per_step(arrays, ctx())

    rows, shared = jax.device_get(emit(batch()))
    out: dict[str, Any] = {name: np.asarray(x, np.float64) for name, x in {**rows, **shared}.items()}
    assert out["student"].shape == out["teacher"].shape == (8, 2, 5) and out["student/local"].shape == (8, 3, 5)
    clip = np.mean([clip_by_hand(out["image"][:, view], out["text"], out["scale"]) for view in range(2)])
    compute = jax.jit(lambda outputs: evaluate(DISTILLED.objective, outputs, {}, ctx()))
    loss, metrics = compute({**rows, **shared})
    # Logits up to a hundred, in float32.
    np.testing.assert_allclose(metrics["loss/contrastive"], clip, rtol=2e-5)
    np.testing.assert_allclose(metrics["loss/dino"], dino_by_hand(out), rtol=2e-5)
    np.testing.assert_allclose(loss, clip + 0.5 * dino_by_hand(out), rtol=2e-5)


@pytest.mark.slow
def test_gradients_are_equal_under_microbatches_and_teacher_has_none():
    _, _, gradients = exact(DISTILLED, size=4, devices=2, spread=0.5)
    assert not any(path.startswith("teacher") for path in gradients)
    for part in ("image", "image_head", "text", "text_head", "head"):
        assert any(np.abs(leaf).max() > 1e-4 for path, leaf in gradients.items() if path.startswith(f"{part}/")), part


def test_without_local_views_outputs_are_those_of_the_dual_encoder():
    contrast = {"contrastive": DISTILLED.objective["contrastive"]}
    plain = harness.traced(DISTILLED.replace(method=DUAL, objective=contrast))
    found = harness.traced(DISTILLED)
    arrays = {path: jnp.asarray(x) for path, x in harness.drawn(found.arrays).items()}
    inputs = {name: batch()[name] for name in ("image", "text", "text/valid")}
    module, dual = (x.structure.merge({path: arrays[path] for path in x.arrays}) for x in (found, plain))
    rows, expected = (
        jax.jit(lambda x, m=m: m.per_example(x, INFERENCE), compiler_options=QUICK)(inputs) for m in (module, dual)
    )
    assert rows.keys() == expected.keys() and rows["image"].shape == (8, 4)
    for name, value in expected.items():
        np.testing.assert_array_equal(rows[name], value)
    model = Model(found.structure, arrays, found.fields)  # it knows the size of one picture from several views
    embeddings = model.encode_image(batch()["image"], normalize=False)
    np.testing.assert_allclose(embeddings, rows["image"], rtol=1e-5, atol=1e-6)  # another program: rounding


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"local": "near"}, "dual.shared_towers needs 'near': 'image'"),
        ({"of": "text"}, "the tower 'text' reads local views"),
        ({"teacher": Ema(of=("image", "text"))}, "teacher.of is image and head, got image, text"),
        ({"dual": dataclasses.replace(DUAL, towers={**DUAL.towers, "head": tiny.Ids()})}, "has a tower 'head'"),
        ({"head": dataclasses.replace(METHOD.head, norm="batch")}, "set norm = 'none'"),
    ],
)
def test_wrong_values_are_named(changes, message):
    assert message in " ".join(problems(dataclasses.replace(METHOD, **changes)))
