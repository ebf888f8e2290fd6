"""DINOv2's method: its objective is that of the released code, and its teacher is right by any microbatch, on any
number of devices, and moved by nothing but the average."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.errors import UsageError
from jaxrep.mesh import ROWS, Mesh
from jaxrep.methods.self_supervised.prototype_head import PrototypeHead
from jaxrep.methods.self_supervised.self_distillation import SelfDistillation
from jaxrep.methods.state import Ema
from jaxrep.objectives.distillation import Dino, Ibot, KoLeo
from jaxrep.optim.ema import moving_average
from jaxrep.optim.optimizers import Sgd
from jaxrep.optim.rules import LearningRateSchedule
from jaxrep.schedules import Constant, Ramp
from jaxrep.spec import problems
from jaxrep.step.train_step import make_step
from jaxrep.views.fields import CopyField
from jaxrep.views.geometry import RandomHorizontalFlip, RandomResizedCrop
from jaxrep.views.mask import BlockMask
from tests.helpers import harness
from tests.helpers.harness import QUICK, RECIPE, batch

HEAD = PrototypeHead(prototypes=6, hidden=8, width=5)
VIT = ViT(width=8, depth=1, heads=2, mlp_ratio=1.0, stem=PatchStem(patch=2), mask_token=True, any_size=True)
COPIES = tuple(
    view
    for name, count in (("a", 0), ("b", 0), ("local", 3))
    for view in (CopyField("image", out=name, count=count), RandomHorizontalFlip(name))
)
CROPS = (*COPIES, RandomResizedCrop("local", size=4, scale=(0.4, 1)))
HIDDEN = tuple(BlockMask(name, patch=2, p=0.7, smallest=1) for name in "ab")
TEMPERATURE = Ramp(start=0.05, end=0.1, steps=4)
DINO: Any = RECIPE.replace(
    data=dataclasses.replace(RECIPE.data, texts=()),
    method=SelfDistillation(
        image=VIT,
        head=HEAD,
        patch_head=HEAD,
        teacher=Ema(of=("image", "head", "patch_head"), momentum=Constant(value=0.7)),
    ),
    objective={
        "dino": Dino(teacher_temperature=TEMPERATURE),
        "ibot": Ibot(teacher_temperature=TEMPERATURE),
        "koleo": KoLeo(weight=Constant(value=0.1)),
    },
    # Steps as long as the gradient: Adam's first ones are not, and make much of what is zero but for rounding.
    optimizer=Sgd(rules=(LearningRateSchedule(path="head/prototypes", factor=Ramp(start=0.0, end=1.0, after=2)),)),
    schedule=Constant(value=0.1),
    views=(*CROPS, *HIDDEN),
)


@pytest.fixture(scope="module")
def outputs():
    """What the method emits for a batch, and the batch after the views."""
    found = harness.traced(DINO)
    arrays = {path: 0.5 * x for path, x in harness.drawn(found.arrays).items()}

    @jax.jit
    def emit(batch):
        seen = found.computation.augment(batch, harness.ctx())
        return {**found.computation.per_example(arrays, seen, harness.ctx())[0]}, seen

    shared = found.computation.per_step(arrays, harness.ctx())
    out, seen = jax.device_get(emit(batch()))
    return {**out, **jax.device_get(shared)}, seen


def sinkhorn(logits, temperature):
    """[M,K] -> [M,K], as the released code scales in turn."""
    q = np.exp(np.float64(logits) / temperature).T
    for _ in range(3):
        q /= q.sum(1, keepdims=True) * len(q)
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q * q.shape[1]).T


def log_softmax(x):
    x = np.float64(x) / 0.1
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("step", [0, 2])
def test_class_token_loss_equals_the_released_code(outputs, step):
    """Every local crop with both targets, each global crop with the other's; divided by the number of such pairs."""
    out, seen = outputs
    temperature = 0.05 + 0.05 * step / 4
    targets = sinkhorn(out["teacher"].reshape(16, -1) @ out["teacher/prototypes"].T, temperature).reshape(8, 2, -1)
    local = log_softmax(out["local"] @ out["prototypes"].T)
    both = log_softmax(out["student"] @ out["prototypes"].T)
    total = -sum((targets[:, t] * local[:, v]).sum(-1).mean() for t in range(2) for v in range(3))
    total -= sum((targets[:, t] * both[:, 1 - t]).sum(-1).mean() for t in range(2))
    loss, _ = jax.jit(DINO.objective["dino"])(out, seen, harness.ctx(step))
    np.testing.assert_allclose(loss, total / (2 * 3 + 2), rtol=1e-5)


def test_patch_loss_equals_the_released_code(outputs):
    """Of hidden patches alone, also in balancing; the mean over those of a crop, and over all crops."""
    out, seen = outputs
    hidden = np.stack([seen["a/masked_index"], seen["b/masked_index"]], 1)
    counts = (hidden >= 0).sum(-1)
    assert counts.min() == 0 and counts.max() > 1  # crops without hidden patches are there too
    targets = sinkhorn(out["teacher/patches"][hidden >= 0] @ out["teacher/patch_prototypes"].T, 0.05)
    losses = -(targets * log_softmax(out["student/patches"][hidden >= 0] @ out["patch_prototypes"].T)).sum(-1)
    weights = (np.ones_like(hidden) / np.maximum(counts, 1)[..., None])[hidden >= 0]
    loss, metrics = jax.jit(DINO.objective["ibot"])(out, seen, harness.ctx())
    np.testing.assert_allclose(loss, (losses * weights).sum() / counts.size, rtol=1e-5)
    np.testing.assert_allclose(metrics["hidden"], counts.mean(), rtol=1e-6)


def test_student_and_teacher_differ_by_masked_patches_only(outputs):
    """Where both have the same parameters, they differ in crops with hidden patches alone."""
    found = harness.traced(DINO)
    state = harness.started(harness.set_up(DINO))
    _, seen = outputs
    out = jax.jit(found.structure.merge(state.params, state.non_trainable).per_example)(seen, harness.ctx())
    apart = np.abs(out["student"] - out["teacher"]).max(-1)
    some = np.stack([seen[f"{crop}/masked"].any(1) for crop in "ab"], 1)
    assert apart[~some].max() < 1e-5 < 1e-3 < apart[some].max()


def test_training_features_are_the_teachers_of_the_first_crop(outputs):
    out, seen = outputs
    found = harness.traced(DINO)
    module = found.structure.merge({path: 0.5 * x for path, x in harness.drawn(found.arrays).items()})
    first = module.teacher.image(EncoderInputs(seen["a"]))
    # float32, in another order of operations
    np.testing.assert_allclose(out["image"], first.pooled, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out["image/tokens"], first.tokens, rtol=1e-4, atol=1e-5)


def test_inference_encodes_by_the_teacher_at_any_size():
    found = harness.traced(DINO)
    module = found.structure.merge(harness.drawn(found.arrays))
    out = module.per_example({"image": batch()["image"]}, INFERENCE)
    assert set(out) == {"image", "image/tokens"} and out["image/tokens"].shape == (8, 16, 8)
    np.testing.assert_array_equal(out["image"], module.teacher.image(EncoderInputs(batch()["image"])).pooled)
    assert module.per_example({"image": batch()["image"][:, :4, :6]}, INFERENCE)["image/tokens"].shape == (8, 6, 8)


@functools.cache
def states(devices=1, microbatch_size=0):
    """The states before and after three steps."""
    recipe = DINO.replace(microbatch_size=microbatch_size)
    setup = harness.set_up(recipe)
    start = harness.started(setup)
    step = jax.jit(make_step(recipe, setup.shapes, setup.updater, 10), compiler_options=QUICK)
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        every = [jax.device_put(start, jax.NamedSharding(mesh, jax.P()))]
        for number in range(3):
            every.append(step(every[-1], jax.device_put(batch(number), jax.NamedSharding(mesh, ROWS)))[0])
    return jax.device_get(every)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "microbatch_size"), [(2, 4), (8, 0)])
def test_states_are_equal_under_microbatches_and_devices(devices, microbatch_size):
    """So gradients are the same, and the teacher is written once a step."""
    for one, other in zip(states(), states(devices, microbatch_size), strict=True):
        assert other.non_trainable.keys() == one.non_trainable.keys()
        assert all(path.startswith("teacher/") for path in one.non_trainable)
        found = {**other.params, **other.non_trainable}
        for path, value in {**one.params, **one.non_trainable}.items():
            # Three steps of a tenth of gradients up to a few, each rounded by some 1e-5 of its size.
            np.testing.assert_allclose(found[path], value, rtol=1e-5, atol=2e-5, err_msg=path)


def test_every_parameter_of_the_student_is_updated():
    start, *_, end = (state.params for state in states())
    still = {path for path, value in start.items() if np.abs(end[path] - value).max() < 1e-6}
    assert still <= {"image/blocks/attention/key/bias"}


def test_teacher_is_the_average_without_optimizer_state():
    before, after = states()[1:3]
    for path, value in after.non_trainable.items():
        student = after.params[path.removeprefix("teacher/")]
        np.testing.assert_allclose(value, 0.7 * before.non_trainable[path] + 0.3 * student, rtol=1e-5, atol=1e-7)
    assert not any("teacher" in jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(after.optimizer))


def test_moving_average_keeps_equal_values_and_copies_integers():
    old = {"kernel": jnp.float32(0.1), "count": jnp.int32(3)}
    new = moving_average(old, {**old, "count": jnp.int32(5)}, jnp.float32(0.996))
    assert new["kernel"] == old["kernel"] and new["count"] == 5


def test_frozen_prototypes_move_after_the_schedule():
    values = [state.params["head/prototypes"] for state in states()]
    np.testing.assert_array_equal(values[0], values[2])
    assert np.abs(values[3] - values[2]).max() > 1e-4
    assert np.abs(states()[1].params["patch_head/prototypes"] - values[0]).max() > 1e-4


def test_wrong_values_and_missing_fields_are_named():
    sentences = problems(SelfDistillation(image=dataclasses.replace(VIT, any_size=False), teacher=Ema(of=("image",))))
    assert len(sentences) == 2 and "set mask_token and any_size" in sentences[0] and "teacher.of is" in sentences[1]
    with pytest.raises(UsageError, match="reads the field 'a/masked', which the batch lacks"):
        harness.traced(DINO.replace(views=CROPS))
