"""Self-distillation with each teacher: SwAV's student without gradient, an average with centers, any encoder."""

import contextlib
import functools
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import INFERENCE
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.convolution import GroupNorm
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.errors import UsageError
from jaxrep.methods.self_supervised.prototype_head import PrototypeHead
from jaxrep.methods.self_supervised.self_distillation import SelfDistillation
from jaxrep.methods.state import Ema
from jaxrep.methods.teacher_center import TeacherCenter
from jaxrep.objectives.distillation import Dino, Ibot
from jaxrep.optim.optimizers import Lars
from jaxrep.recipe import Checkpointing
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.schedules import Constant
from jaxrep.spec import problems
from jaxrep.step.train_step import make_step
from jaxrep.views.fields import CopyField
from jaxrep.views.geometry import RandomResizedCrop
from tests.helpers import harness
from tests.helpers.harness import QUICK, batch
from tests.methods.self_supervised.test_self_distillation import CROPS, DINO, HEAD, HIDDEN, VIT

NET = ResNet(depths=(1,), width=4, bottleneck=False, stem="small")
SWAV: Any = DINO.replace(
    views=CROPS,
    method=SelfDistillation(
        image=NET,
        head=PrototypeHead(prototypes=6, hidden=8, width=5, layers=2, norm="batch", activation="relu", lengths="unit"),
        patch_head=None,
        teacher=None,
        hide=False,
    ),
    objective={"swav": Dino(teacher_temperature=Constant(value=0.05), each_crop=True)},
    optimizer=Lars(vectors=True, weight_decay=Constant(value=1e-6)),
)
# The encoder of this one allows microbatches.
GROUPED = SWAV.replace({"method.image": replace(NET, norm=GroupNorm(groups=2))})
CENTERED: Any = DINO.replace(
    views=(*CROPS, *HIDDEN),
    method=SelfDistillation(
        image=VIT,
        head=HEAD,
        patch_head=None,
        teacher=Ema(of=("image", "head"), momentum=Constant(value=0.7)),
        center=TeacherCenter(),
        patch_center=TeacherCenter(of="teacher/patches"),
    ),
    objective={
        "dino": Dino(center="center", iterations=0),
        "ibot": Ibot(center="patch_center", iterations=0, table="prototypes"),
    },
)
STEPS = 3


@functools.cache
def compiled(name: str, microbatch_size: int = 0) -> tuple[Any, Any]:
    """Return a set-up and its jitted step."""
    recipe = {"swav": SWAV, "grouped": GROUPED, "centered": CENTERED}[name].replace(microbatch_size=microbatch_size)
    setup = harness.set_up(recipe)
    return setup, jax.jit(make_step(recipe, setup.shapes, setup.updater, 10), compiler_options=QUICK)


@functools.cache
def states(name: str, microbatch_size: int = 0) -> list[Any]:
    """Return the states before and after each step, on the host."""
    setup, step = compiled(name, microbatch_size)
    found = [harness.started(setup)]
    for number in range(STEPS):
        found.append(step(found[-1], batch(number))[0])
    return jax.device_get(found)


def outputs_of(name: str) -> tuple[Any, Any, Any]:
    """Return the initial module, and the batch after the views and all outputs of the first step."""
    setup, _ = compiled(name)
    state, compute = states(name)[0], setup.shapes.computation
    ctx = replace(harness.ctx(), base_key=jax.random.wrap_key_data(state.key))  # as in the first step

    @functools.partial(jax.jit, compiler_options=QUICK)
    def emit(arrays, batch):
        seen = compute.augment(batch, ctx)
        rows, _ = compute.per_example(arrays, seen, ctx)
        return seen, compute.across_batch(arrays, {**rows, **compute.per_step(arrays, ctx)}, seen, ctx)[0]

    return setup.shapes.structure.merge(state.arrays), *jax.device_get(emit(state.arrays, batch()))


def test_rows_of_swav_are_those_of_its_head_over_all_crops():
    """Linear, batch norm over the rows of all crops, ReLU, linear, unit length; in float64."""
    module, _, out = outputs_of("swav")
    pooled = np.float64(np.concatenate([out["student/pooled"], out["local/pooled"]], 1)).reshape(8 * 5, -1)
    mlp = module.head.mlp
    x = pooled @ np.float64(mlp.layers[0].kernel[...])
    x = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
    x = np.maximum(x, 0) @ np.float64(mlp.layers[1].kernel[...]) + np.float64(mlp.layers[1].bias[...])
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).reshape(8, 5, -1)
    np.testing.assert_allclose(out["student"], x[:, :2], rtol=1e-3, atol=1e-4)  # float32 after a small variance
    np.testing.assert_allclose(out["local"], x[:, 2:], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(out["teacher"], out["student"])
    np.testing.assert_array_equal(out["teacher/prototypes"], out["prototypes"])


def test_prototypes_of_swav_keep_unit_length():
    start, *_, end = (state.params["head/prototypes"] for state in states("swav"))
    for state in states("swav"):
        np.testing.assert_allclose(np.linalg.norm(state.params["head/prototypes"], axis=1), 1, atol=1e-6)
    assert np.abs(end - start).max() > 1e-5
    assert not any("lengths" in path for path in states("swav")[0].params)


def test_swav_has_no_teacher_and_running_statistics_of_its_encoder_alone():
    assert all(path.rsplit("/")[-1] in ("mean", "variance") for path in states("swav")[0].non_trainable)
    first, second = states("swav")[:2]
    assert all(np.abs(second.non_trainable[path] - x).max() > 0 for path, x in first.non_trainable.items())
    module, _, _ = outputs_of("swav")
    out = module.per_example({"image": batch()["image"]}, INFERENCE)
    assert set(out) == {"image", "image/tokens"}
    np.testing.assert_array_equal(out["image"], module.image(EncoderInputs(batch()["image"])).pooled)


def test_gradient_of_swav_takes_assignments_as_given():
    """Moving the teacher's rows changes the loss, and not through its gradient."""
    setup, _ = compiled("swav")
    _, seen, out = outputs_of("swav")
    term = setup.recipe.objective["swav"]

    def loss(moved, out):
        return term({**out, **moved}, seen, harness.ctx())[0]

    moved = {name: out[name] for name in ("student", "teacher", "teacher/prototypes")}
    slopes = jax.jit(jax.grad(loss))(moved, out)
    assert np.abs(slopes["student"]).max() > 1e-4
    assert not np.abs(slopes["teacher"]).max() and not np.abs(slopes["teacher/prototypes"]).max()


def test_centers_are_the_averages_of_the_logits():
    for before, after in zip(states("centered"), states("centered")[1:], strict=False):
        assert np.abs(after.non_trainable["center/value"] - before.non_trainable["center/value"]).max() > 1e-5
    _, seen, out = outputs_of("centered")
    assert "patch_prototypes" not in out and not out["center"].any()
    table = out["teacher/prototypes"].astype(float)
    hidden = np.stack([seen["a/masked_index"], seen["b/masked_index"]], 1) >= 0
    np.testing.assert_array_equal(out["teacher/patches/present"], hidden)
    first = states("centered")[1].non_trainable
    for name, rows in (("center", out["teacher"].reshape(-1, 5)), ("patch_center", out["teacher/patches"][hidden])):
        np.testing.assert_allclose(
            first[f"{name}/value"], 0.1 * (rows.astype(float) @ table.T).mean(0), rtol=1e-4, atol=1e-6, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grouped", "centered"])
def test_states_are_equal_under_microbatches(name):
    for one, other in zip(states(name), states(name, 4), strict=True):
        for path, value in one.arrays.items():
            # Three steps of gradients that are summed in another order; LARS takes unit steps of small gradients.
            np.testing.assert_allclose(other.arrays[path], value, rtol=2e-4, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("name", ["swav", "centered"])
def test_states_are_equal_bit_for_bit_after_stop_and_resume(name, tmp_path):
    _, step = compiled(name)
    with contextlib.closing(Checkpoints(tmp_path, Checkpointing())) as checkpoints:
        checkpoints.save(1, jax.device_put(states(name)[1]), {"position": 8})
        checkpoints.wait()
        state, _ = checkpoints.restore(1, jax.eval_shape(lambda: states(name)[1]))
    for number in range(1, STEPS):
        state = step(state, batch(number))[0]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), states(name)[-1])


def test_wrong_choices_are_named():
    def sentences(**changes):
        return problems(replace(SWAV.method, **changes))

    assert sentences() == []
    assert "hide masks patches, which ResNet cannot" in sentences(hide=True, teacher=Ema(of=("image", "head")))[0]
    assert "needs a teacher: set hide = False" in problems(replace(CENTERED.method, teacher=None))[0]
    assert sentences(patch_head=HEAD) == ["patch_head reads hidden patches, and hide is False: set patch_head = None"]
    assert sentences(teacher=Ema(of=("image",))) == ["teacher.of is image and head, got image"]
    assert sentences(center=TeacherCenter(table="protos")) == [
        "center.table is 'protos', and the prototypes of 'teacher' are 'prototypes'"
    ]
    assert sentences(center=TeacherCenter(of="teacher/patches"))[0].startswith("center.of is 'teacher/patches'")
    assert "heads have no batch norm" in problems(replace(CENTERED.method, head=SWAV.method.head))[0]
    assert all("crops needs one field at least, and each once" in sentences(crops=x)[0] for x in ((), ("a", "a")))

    with pytest.raises(UsageError, match=r"objective.swav reads 'center', which SelfDistillation does not emit"):
        harness.traced(SWAV.replace(objective={"swav": Dino(center="center", iterations=0)}))
    with pytest.raises(UsageError, match="microbatches would change the result"):
        harness.traced(SWAV.replace(microbatch_size=4))


def test_crops_and_centers_that_do_not_fit_are_named():
    small, one = RandomResizedCrop("b", size=4), CopyField("image", out="local")
    with pytest.raises(
        UsageError, match=r"global crops are of one size, and 'a' is \(8, 8, 3\) and 'b' is \(4, 4, 3\)"
    ):
        harness.traced(SWAV.replace(views=(*CROPS, small)))
    with pytest.raises(UsageError, match="without an axis of crops: give its CopyField a count"):
        harness.traced(SWAV.replace(views=(*CROPS[:4], one)))
    with pytest.raises(UsageError, match=r"center 'prototypes' is \(6, 5\), and 'prototypes' has 6 prototypes"):
        harness.traced(SWAV.replace(objective={"swav": Dino(center="prototypes", iterations=0)}))
