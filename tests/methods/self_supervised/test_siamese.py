"""Learners of views: statistics and mixing over the whole batch, by any microbatch, on any devices.

Barlow Twins with mixed inputs; BYOL and SimSiam, whose gradients are one but for a factor; MoCo's queue and teacher.
"""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.convolution import BatchNorm, GroupNorm
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.errors import UsageError
from jaxrep.mesh import ROWS, Mesh
from jaxrep.methods.heads import Identity, LogitScale
from jaxrep.methods.queue import Queue
from jaxrep.methods.self_supervised.projector import Projector
from jaxrep.methods.self_supervised.siamese import Siamese
from jaxrep.methods.state import Ema
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.geometry import Alignment, BarlowTwins, MixedTwins
from jaxrep.optim.optimizers import Sgd
from jaxrep.recipe import Checkpointing
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.schedules import Constant
from jaxrep.spec import problems
from jaxrep.step.train_step import make_step
from jaxrep.training.warm_start import rebuild_averages
from jaxrep.views.color import ColorJitter
from jaxrep.views.fields import CopyField, MixUpFields
from jaxrep.views.geometry import RandomHorizontalFlip
from tests.helpers import harness
from tests.helpers.harness import QUICK, RECIPE, batch

VIEWS = (
    *(CopyField("image", out=x) for x in "ab"),
    *(view for x in "ab" for view in (RandomHorizontalFlip(x), ColorJitter(x, brightness=0.5))),
    MixUpFields("a", other="b"),
)
VIT = ViT(width=8, depth=1, heads=2, mlp_ratio=1.0, stem=PatchStem(patch=4), pool="mean")
TWINS = RECIPE.replace(
    data=RECIPE.data.__class__(train=RECIPE.data.train, batch_size=8, texts=()),
    method=Siamese(image=VIT, projector=Projector(widths=(6, 5))),
    objective={"twins": BarlowTwins("a", "b"), "mixed": MixedTwins("mixed", "a", "b", redundancy=0.5)},
    views=VIEWS,
)
HEADS: Any = dict(image=VIT, projector=Projector(widths=(6, 5)), targets=("a", "b"))
PREDICTED: Any = {**HEADS, "predictor": Projector(widths=(6, 5), bias=True)}
PAIRS = (("a/predicted", "b/target"), ("b/predicted", "a/target"))


def both(term, weight=1.0):
    """A term in both directions."""
    return {f"{x[0]}_to_{y[0]}": term(x, y, weight=Constant(value=weight)) for x, y in PAIRS}


TEACHER = Ema(of=("image", "projector"), momentum=Constant(value=0.0))
SIMSIAM = TWINS.replace(method=Siamese(**PREDICTED), objective=both(Alignment, 0.25), views=VIEWS[:-1])
BYOL = SIMSIAM.replace(method=Siamese(**PREDICTED, teacher=TEACHER), objective=both(Alignment))
MOCO = SIMSIAM.replace(
    method=Siamese(
        image=VIT,
        projector=Projector(widths=(6, 5), norm="none", bias=True),
        views=("a",),
        targets=("b",),
        teacher=Ema(of=("image", "projector"), momentum=Constant(value=0.75)),
        memory=Queue(size=16, width=5, of="b/target", ids="image_id"),
        scale=LogitScale(init=5.0, trainable=False),
    ),
    objective={"moco": Contrastive("a", "b/target", extra_b="queue", direction="a_to_b", in_batch=False)},
    optimizer=Sgd(),  # steps as long as the gradient
    schedule=Constant(value=0.1),
)
RESNET: Any = ResNet(depths=(1,), width=4, bottleneck=False, stem="small")


@pytest.mark.slow
def test_gradients_are_equal_under_microbatches_and_devices():
    # What batch norm takes away again (the last norm's bias) has a gradient of numbers that cancel.
    loss, metrics, gradients = harness.exact(TWINS, size=2, devices=8, spread=0.5, rounding=1e-5)
    np.testing.assert_allclose(loss, metrics["loss/twins"] + metrics["loss/mixed"], rtol=1e-6)
    still = {path for path, leaf in gradients.items() if np.abs(leaf).max() < 1e-5}
    assert still <= {"image/blocks/attention/key/bias", "image/norm/bias"} and metrics["loss/mixed"] > 0.1


def test_projector_normalizes_over_the_whole_batch():
    found = harness.traced(TWINS)
    module = found.structure.merge(harness.drawn(found.arrays))
    x = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    first, second = (np.float64(layer.kernel[...]) for layer in module.projector.layers)
    hidden = np.float64(x) @ first
    hidden = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    hidden = hidden * np.float64(module.projector.scales[0][...]) + np.float64(module.projector.biases[0][...])
    np.testing.assert_allclose(module.projector(x), np.maximum(hidden, 0) @ second, rtol=1e-5, atol=1e-5)  # float32


def test_batch_stats_move_by_the_mean_of_the_views_and_refuse_microbatches():
    recipe = TWINS.replace({"method.image": RESNET})
    found = harness.traced(recipe)
    arrays = harness.drawn(found.arrays)
    fields = jax.device_get(found.computation.augment(batch(), harness.ctx()))

    def batch_stats(names):
        return found.computation.per_example(arrays, {name: fields[name] for name in names}, harness.ctx())[1]

    several, each = batch_stats(("a", "b", "mixed")), [batch_stats((name,)) for name in ("a", "b", "mixed")]
    assert several and several.keys() == each[0].keys() == {*found.batch_stats}
    for path, value in several.items():
        np.testing.assert_allclose(value, sum(one[path] for one in each) / 3, rtol=1e-5, atol=1e-6, err_msg=path)
    with pytest.raises(UsageError, match="is a statistic over the batch inside an encoder"):
        harness.traced(recipe.replace(microbatch_size=4))
    harness.traced(recipe.replace({"method.image.norm": GroupNorm(groups=2)}, microbatch_size=4))


def test_image_without_views_is_encoded():
    found = harness.traced(TWINS)
    outputs = found.structure.merge(harness.drawn(found.arrays)).per_example({"image": batch()["image"]}, INFERENCE)
    assert set(outputs) == {"image", "image/pooled", "image/tokens"} and outputs["image"].shape == (8, 8)
    np.testing.assert_allclose(outputs["image/tokens"].mean(1), outputs["image"], rtol=1e-5, atol=1e-6)
    assert "image/tokens" not in found.outputs


@functools.cache
def compiled(name):
    recipe = {"byol": BYOL, "simsiam": SIMSIAM}[name]
    found = harness.traced(recipe)
    return found.trained(found.updater(recipe)), jax.jit(found.computation.value_and_grad, compiler_options=QUICK)


def value_and_gradient(name, arrays):
    trained, run = compiled(name)
    (loss, _, outputs, _), gradients = run({path: arrays[path] for path in trained}, arrays, batch(), harness.ctx())
    return jax.device_get((loss, outputs, gradients))


def cosine(outputs, x, y):
    x, y = (np.float64(outputs[name]) for name in (x, y))
    return ((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean()


def test_byol_with_momentum_0_has_four_times_the_gradient_of_simsiam():
    found = harness.traced(BYOL)
    arrays = {path: 0.5 * x for path, x in harness.drawn(found.arrays).items()}
    module = found.structure.merge(arrays)
    moved = jax.device_get(TEACHER.build(None, inputs=module).update(module, {}, {}, harness.ctx()))
    arrays |= {f"teacher/{path}": x for path, x in moved.items()}
    loss, outputs, gradients = value_and_gradient("byol", arrays)
    plain, own, slopes = value_and_gradient("simsiam", arrays)
    # Minus half of the cosine each way, plus the 1 by which half of half a squared distance differs from it.
    np.testing.assert_allclose(plain - 1, -sum(cosine(own, *pair) / 2 for pair in PAIRS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(loss, sum(2 - 2 * cosine(outputs, *pair) for pair in PAIRS), rtol=1e-5)
    assert gradients.keys() == slopes.keys() and {"predictor/layers/1/bias", "image/positions"} <= slopes.keys()
    for path, slope in slopes.items():
        np.testing.assert_allclose(gradients[path], 4 * slope, rtol=1e-4, atol=1e-5, err_msg=path)
    assert max(np.abs(slope).max() for slope in slopes.values()) > 0.01
    for name in "ab":  # targets are projections, and have no gradient
        np.testing.assert_array_equal(own[f"{name}/target"], own[name])


def test_the_target_is_held_fixed():
    """The gradient is that of the predictions alone, by differences of the loss with the targets of the start."""
    arrays = {path: 0.5 * x for path, x in harness.drawn(harness.traced(SIMSIAM).arrays).items()}
    _, outputs, gradients = value_and_gradient("simsiam", arrays)
    path, step = "predictor/layers/1/bias", 1e-3
    along = np.random.default_rng(3).normal(size=5).astype(np.float32)

    def fixed(sign):
        moved = arrays | {path: arrays[path] + sign * step * along}
        now = value_and_gradient("simsiam", moved)[1]
        held = {**now, **{f"{name}/target": outputs[f"{name}/target"] for name in "ab"}}
        return -sum(cosine(held, *pair) / 2 for pair in PAIRS)

    np.testing.assert_allclose((fixed(1) - fixed(-1)) / (2 * step), gradients[path] @ along, rtol=1e-2, atol=1e-4)


RUNNING = Projector(widths=(6, 5), momentum=0.5)
LEARNERS = {
    "moco": MOCO,
    "byol": BYOL.replace(
        {"method.projector": RUNNING, "method.predictor": RUNNING, "method.teacher.momentum.value": 0.75},
        optimizer=MOCO.optimizer,
        schedule=MOCO.schedule,
    ),
}


@functools.cache
def states(name="moco", devices=1, microbatch_size=0, steps=3):
    """The states before and after some steps, and the metrics."""
    recipe = LEARNERS[name].replace(microbatch_size=microbatch_size)
    setup = harness.set_up(recipe)
    start = harness.started(setup)
    step = jax.jit(make_step(recipe, setup.shapes, setup.updater, 10), compiler_options=QUICK)
    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    with jax.set_mesh(mesh):
        every, metrics = [jax.device_put(start, jax.NamedSharding(mesh, jax.P()))], []
        for number in range(steps):
            new, found = step(every[-1], jax.device_put(batch(number), jax.NamedSharding(mesh, ROWS)))
            every.append(new)
            metrics.append(found)
    return setup, step, jax.device_get(every), jax.device_get(metrics)


def test_moco_keeps_the_keys_of_earlier_steps_and_moves_the_teacher():
    setup, _, every, metrics = states()
    ids = [batch(number)["image_id"] for number in range(3)]
    held = [state.non_trainable for state in every]
    np.testing.assert_array_equal(held[3]["memory/ids"], np.concatenate([ids[2], ids[1]]))
    np.testing.assert_array_equal(held[3]["memory/rows"][8:], held[2]["memory/rows"][:8])
    np.testing.assert_array_equal(held[1]["memory/rows"][8:], held[0]["memory/rows"][:8])
    for path, value in held[3].items():
        if path.startswith("teacher/"):
            student = every[3].params[path.removeprefix("teacher/")]
            np.testing.assert_allclose(value, 0.75 * held[2][path] + 0.25 * student, rtol=1e-5, atol=1e-7)
    # The keys are those of the teacher before the step, and the candidates the own key and the queue before it.
    now = setup.shapes.computation.augment(batch(1), dataclasses.replace(harness.ctx(1), base_key=key_of(every[1])))
    module = setup.shapes.structure.merge(every[1].params, held[1])
    query = module.projector(module.image(EncoderInputs(now["a"])).pooled)
    key = module.teacher.projector(module.teacher.image(EncoderInputs(now["b"])).pooled)
    query, key = (np.float64(x) / np.linalg.norm(np.float64(x), axis=1, keepdims=True) for x in (query, key))
    np.testing.assert_allclose(held[2]["memory/rows"][:8], key, rtol=1e-4, atol=1e-5)
    own, queue = 5 * (query * key).sum(1), 5 * query @ held[1]["memory/rows"].T
    loss = np.mean(np.log(np.exp(own) + np.exp(queue).sum(1)) - own)
    np.testing.assert_allclose(metrics[1]["loss/moco"], loss, rtol=1e-4)
    np.testing.assert_allclose(metrics[1]["scale"], 5, rtol=1e-6)


def key_of(state):
    return jax.random.wrap_key_data(jnp.asarray(state.key))


def test_queue_and_teacher_are_never_in_the_optimizer():
    setup, _, every, _ = states()
    remembered = {path for path in setup.shapes.arrays if path.startswith(("memory/", "teacher/", "scale/"))}
    assert remembered == {*every[0].non_trainable} and {"memory/rows", "memory/ids"} < remembered
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(every[3].optimizer)]
    assert names and not any("teacher" in name or "memory" in name for name in names)


def test_queue_and_teacher_go_on_bit_for_bit_after_a_stop(tmp_path):
    _, step, every, _ = states()
    with contextlib.closing(Checkpoints(tmp_path, Checkpointing())) as checkpoints:
        checkpoints.save(2, every[2], {"position": 16})
        checkpoints.wait()
        restored, _ = checkpoints.restore(2, jax.eval_shape(lambda: every[2]))
    with jax.set_mesh(Mesh(data=1).build(jax.devices()[:1])):
        again, _ = step(restored, batch(2))
    for path, value in every[3].arrays.items():
        np.testing.assert_array_equal(again.arrays[path], value, err_msg=path)


def test_a_start_from_other_arrays_copies_them_to_the_teacher():
    setup = harness.set_up(MOCO.replace({"method.memory": None}, objective={"a": Alignment("a", "b/target")}))
    arrays = rebuild_averages(setup, harness.drawn(setup.shapes.arrays))
    followed = [path for path in arrays if path.startswith(("image/", "projector/"))]
    assert followed and arrays.keys() == setup.shapes.arrays.keys()
    for path in followed:
        np.testing.assert_array_equal(arrays[f"teacher/{path}"], arrays[path])


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize(("devices", "microbatch_size"), [(1, 4), (8, 0), (2, 4)])
def test_states_are_equal_under_microbatches_and_devices(name, devices, microbatch_size):
    """Queue, teacher and running statistics too."""
    other = states(name, devices, microbatch_size)[2]
    assert ("projector/means/0" in other[0].non_trainable) == (name == "byol")
    for one, two in zip(states(name)[2], other, strict=True):
        for path, value in one.arrays.items():  # rows are summed in another order
            np.testing.assert_allclose(two.arrays[path], value, rtol=1e-4, atol=2e-5, err_msg=path)


def test_shuffled_rows_are_normalized_in_other_groups_and_come_back_in_order():
    def recipe(groups):
        image = dataclasses.replace(RESNET, norm=BatchNorm(groups=groups))
        method: Any = dataclasses.replace(MOCO.method, image=image, memory=None, shuffle=True)
        return MOCO.replace(method=method, objective={"moco": Contrastive("a", "b/target", direction="a_to_b")})

    in_groups, whole = (harness.traced(recipe(groups)) for groups in (2, 1))
    arrays = {path: np.abs(x) for path, x in harness.drawn(in_groups.arrays).items()}
    seen = jax.device_get(in_groups.computation.augment(batch(), harness.ctx()))
    ctx = harness.ctx().at("rows")
    found = in_groups.structure.merge(arrays).per_example(seen, ctx)["b/target/pooled"]
    order = np.asarray(jax.random.permutation(ctx.at("teacher").key("shuffle/b"), 8))
    encode, expected = whole.structure.merge(arrays).teacher.image, np.zeros((8, 4))
    for rows in (order[:4], order[4:]):
        expected[rows] = encode(EncoderInputs(seen["b"][rows], ctx=ctx)).pooled
    assert {*order[:4]} not in ({0, 1, 2, 3}, {4, 5, 6, 7})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match=r"norm.groups = 3 do not divide the 8 rows"):
        harness.traced(recipe(3))


def test_crops_are_views_and_only_what_is_asked_for_is_computed():
    crops = TWINS.replace(
        views=(*VIEWS[:-1], CopyField("image", out="local", count=3)),
        method=Siamese(image=VIT, projector=Identity(), views=("a", "local"), targets=("a",)),
        objective={"a": Alignment("a", "a/target")},
    )
    found = harness.traced(crops)
    shapes = {name: leaf.shape for name, leaf in found.outputs.items()}
    assert shapes["local"] == shapes["local/pooled"] == (8, 3, 8) and shapes["image/projected"] == (8, 8)
    assert not {"b", "b/pooled", "local/target", "a/predicted", "queue", "scale"} & {*shapes}
    assert {"b/target", "b/target/pooled"} <= {*harness.traced(MOCO).outputs}.difference({"b", "b/pooled"})


def test_one_image_is_projected_by_running_statistics():
    method = Siamese(image=VIT, projector=Projector(widths=(6, 5), momentum=0.9))
    found = harness.traced(TWINS.replace(method=method))
    arrays = {path: np.abs(x) for path, x in harness.drawn(found.arrays).items()}
    module = found.structure.merge(arrays)
    images = batch()["image"]
    whole, alone = (module.per_example({"image": x}, INFERENCE)["image/projected"] for x in (images, images[2:3]))
    np.testing.assert_allclose(alone, whole[2:3], rtol=1e-4, atol=1e-5)
    # The statistics move by the mean of the views.
    seen = jax.device_get(found.computation.augment(batch(), harness.ctx()))
    rows, _ = found.computation.per_example(arrays, seen, harness.ctx())
    out, moved = found.computation.across_batch(arrays, rows, seen, harness.ctx())
    hidden = [np.float64(rows[f"{name}/pooled"]) @ arrays["projector/layers/0/kernel"] for name in ("a", "b", "mixed")]
    mean = np.mean([h.mean(0) for h in hidden], axis=0)
    expected = 0.9 * arrays["projector/means/0"] + 0.1 * mean
    np.testing.assert_allclose(moved["projector/means/0"], expected, rtol=1e-4, atol=1e-5)
    assert {*moved} == {"projector/means/0", "projector/variances/0"}
    np.testing.assert_array_equal(out["image/projected"], out["a"])


def test_mistakes_are_told_before_the_first_step():
    def said(**fields):
        return problems(Siamese(**{"image": VIT, "projector": Identity(), **fields}))

    assert said(views=()) == ["views needs one field at least"]
    assert "views has 'image'" in said(views=("image",))[0]
    assert said(views=("a", "a")) == ["views has 'a' twice: name each field once"]
    assert said(targets=("c",)) == ["targets has 'c', which nothing projects: add it to views, or a teacher"]
    assert said(projector=Projector(widths=()))[-1] == "projector: widths needs one layer at least"
    wide = Projector(widths=(6, 9))
    assert "predictor ends 9 wide and the projection, which it predicts, 8" in said(predictor=wide)[0]
    assert said(shuffle=True) == ["shuffle is about the rows that a teacher reads, and there is none"]
    assert "teacher.of is image and projector, got image" in said(targets=("b",), teacher=Ema(of=("image",)))[0]
    assert "targets is empty" in said(teacher=TEACHER)[0]
    for fields, sentence in (
        ({"method.memory.size": 12}, "a queue of 12 rows is no multiple of the batch of 8: take size = 16"),
        ({"method.memory.width": 4}, r"method.memory: a queue of width = 4 keeps rows .* has shape \(8, 5\)"),
        ({"method.memory.of": "key"}, "method.memory: a queue reads the output 'key', which is missing"),
        ({"method.memory.ids": "group"}, "method.memory: a queue reads the field 'group', which the batch lacks"),
        ({"method.teacher.of": ("image", "projector", "tail")}, "the method has no part 'tail' to average"),
        ({"method.views": ("a", "c")}, "Siamese reads the field 'c', which the batch lacks"),
        ({"method.memory": None}, "objective.moco reads 'queue', which Siamese does not emit"),
    ):
        with pytest.raises(UsageError, match=sentence):
            harness.traced(MOCO.replace(fields))
