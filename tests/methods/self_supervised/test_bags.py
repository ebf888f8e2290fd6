"""Bags of words: words and their distances over steps, bags and weights by float64 NumPy, and mistakes."""

import contextlib
import functools
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import INFERENCE, StepContext
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.convolution import BatchNorm, GroupNorm
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.errors import UsageError
from jaxrep.methods.running_mean import RunningMean
from jaxrep.methods.self_supervised.bags import BagsOfWords, Vocabulary, draw_word
from jaxrep.methods.state import Ema
from jaxrep.objectives import BagPrediction
from jaxrep.optim.optimizers import Sgd
from jaxrep.recipe import Checkpointing
from jaxrep.runs.checkpoints import Checkpoints
from jaxrep.schedules import Constant
from jaxrep.spec import problems
from jaxrep.step.train_step import make_step
from jaxrep.views.color import ColorJitter
from jaxrep.views.fields import CopyField
from jaxrep.views.geometry import RandomHorizontalFlip, RandomResizedCrop
from tests.helpers import harness
from tests.helpers.harness import QUICK, RECIPE, batch

RESNET = ResNet(depths=(2,), width=4, bottleneck=False, stem="small", norm=GroupNorm(groups=2))
BLOCKS, K, D = (0, 1), 16, 4
OBOW = RECIPE.replace(
    data=RECIPE.data.__class__(train=RECIPE.data.train, batch_size=8, texts=()),
    views=(
        CopyField("image", out="crops", count=2),
        CopyField("image", out="small"),
        RandomResizedCrop("crops", size=6),
        RandomResizedCrop("small", size=4),
        ColorJitter("crops", brightness=0.5),
        RandomHorizontalFlip("image"),
    ),
    method=BagsOfWords(
        image=RESNET,
        blocks=BLOCKS,
        crops=("crops", "small"),
        hidden=6,
        vocabulary=Vocabulary(size=K),
        teacher=Ema(of=("image",), momentum=Constant(value=0.75)),
    ),
    objective={"bags": BagPrediction(("0", "1"), ("crops", "small"))},
    optimizer=Sgd(),
    schedule=Constant(value=0.1),
)
CLOSE: Any = dict(rtol=1e-4, atol=1e-5)  # float32 activations


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)  # a word may be 0


@functools.cache
def states(microbatch_size=0, steps=4):
    """The states before and after some steps, and the metrics."""
    recipe = OBOW.replace(microbatch_size=microbatch_size)
    setup = harness.set_up(recipe)
    step = jax.jit(make_step(recipe, setup.shapes, setup.updater, 10), compiler_options=QUICK)
    every = [harness.started(setup)]
    metrics = []
    for number in range(steps):
        new, found = step(every[-1], batch(number))
        every.append(new)
        metrics.append(found)
    return setup, step, jax.device_get(every), jax.device_get(metrics)


def three_by_three(x):
    rows, columns = x.shape[0] - 2, x.shape[1] - 2
    return np.array([x[i : i + 3, j : j + 3].mean((0, 1)) for i in range(rows) for j in range(columns)])


def test_a_word_is_the_mean_of_a_neighborhood_drawn_per_row():
    maps = np.random.default_rng(0).normal(size=(40, 4, 5, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 40)
    chosen = []
    for word, x in zip(np.asarray(draw_word(keys, maps)), maps, strict=True):
        means = three_by_three(x)
        chosen.append(int(np.argmin(np.abs(means - word).sum(1))))
        np.testing.assert_allclose(word, means[chosen[-1]], rtol=1e-5, atol=1e-6)
    assert {*chosen} == {*range(6)}


def test_a_step_equals_the_equations():
    """Of the second step: teacher, words and distances have moved once."""
    setup, _, every, metrics = states()
    state, held = every[1], every[1].non_trainable
    ctx = harness.ctx(1)
    ctx = StepContext(ctx.step, jax.random.wrap_key_data(np.asarray(state.key)), ctx.positions, 10, 8)
    seen = jax.device_get(setup.shapes.computation.augment(batch(1), ctx))
    module = setup.shapes.structure.merge(state.params, held)
    maps = module.teacher.image(EncoderInputs(seen["image"], intermediate_maps=BLOCKS)).intermediate_maps
    features = {
        "crops": np.stack([module.image(EncoderInputs(seen["crops"][:, i])).pooled for i in range(2)], 1),
        "small": np.asarray(module.image(EncoderInputs(seen["small"])).pooled)[:, None],
    }
    total = 0.0
    for block in BLOCKS:
        places = np.float64(maps[block])[:, 1:-1, 1:-1]
        words = np.float64(held[f"vocabulary/words/{block}/rows"])
        distances = ((places.reshape(8, -1, 1, D) - words) ** 2).sum(-1)
        mean = 0.99 * held[f"vocabulary/distances/{block}/value"] + 0.01 * distances.min(-1).mean()
        np.testing.assert_allclose(every[2].non_trainable[f"vocabulary/distances/{block}/value"], mean, rtol=1e-5)
        codes = softmax(-15 / mean * distances).max(1)
        bags = codes / codes.sum(-1, keepdims=True)
        layers = getattr(module, f"weights_{block}")
        first, last = (np.float64(layer.kernel[...]) for layer in layers.layers)
        h = unit(words) @ first
        h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)
        h = np.maximum(h * np.float64(layers.scales[0][...]) + np.float64(layers.biases[0][...]), 0)
        weights = unit(h @ last + np.float64(layers.layers[1].bias[...]))
        for x in features.values():
            log = np.log(softmax(8 * np.float64(x) @ weights.T))
            total -= (log * bags[:, None]).sum(-1).mean() / len(BLOCKS)
        # The words of this step are first in the queue after it, each the mean of a neighborhood of its picture.
        new = every[2].non_trainable[f"vocabulary/words/{block}/rows"]
        np.testing.assert_array_equal(new[8:], held[f"vocabulary/words/{block}/rows"][:8])
        for word, x in zip(new[:8], places, strict=True):
            assert np.abs(three_by_three(x) - word).max(1).min() < 1e-4
    np.testing.assert_allclose(metrics[1]["loss/bags"], total, rtol=1e-4)
    assert 1 < metrics[1]["loss/bags/words/picture/0"] <= K


def test_words_begin_as_what_a_relu_leaves_and_distances_at_a_half():
    start = states()[2][0].non_trainable
    for block in BLOCKS:
        rows = start[f"vocabulary/words/{block}/rows"]
        assert rows.shape == (K, D) and (rows >= 0).all() and 0.2 < (rows == 0).mean() < 0.8
        assert start[f"vocabulary/distances/{block}/value"] == np.float32(0.5)


def test_words_distances_and_teacher_go_on_bit_for_bit_after_a_stop(tmp_path):
    _, step, every, _ = states()
    for stop in (1, 3):
        with contextlib.closing(Checkpoints(tmp_path / str(stop), Checkpointing())) as checkpoints:
            checkpoints.save(stop, every[stop], {"position": 8 * stop})
            checkpoints.wait()
            now, _ = checkpoints.restore(stop, jax.eval_shape(lambda: every[0]))
        for number in range(stop, len(every) - 1):
            now, _ = step(now, batch(number))
        for path, value in every[-1].arrays.items():
            np.testing.assert_array_equal(now.arrays[path], value, err_msg=path)


def test_words_distances_and_teacher_are_never_in_the_optimizer():
    setup, _, every, _ = states()
    kept = {path for path in setup.shapes.arrays if path.startswith(("vocabulary/", "teacher/"))}
    assert kept == {*every[0].non_trainable} and len([path for path in kept if "vocabulary" in path]) == 4
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(every[-1].optimizer)]
    assert names and not any(part in name for name in names for part in ("vocabulary", "teacher"))


@pytest.mark.slow
def test_microbatches_give_the_same_words_distances_and_weights():
    for one, two in zip(states()[2], states(microbatch_size=4)[2], strict=True):
        for path, value in one.arrays.items():  # rows are summed in another order
            np.testing.assert_allclose(two.arrays[path], value, rtol=1e-4, atol=2e-5, err_msg=path)


@pytest.mark.slow
def test_gradients_are_equal_under_microbatches_and_devices():
    _, metrics, _ = harness.exact(OBOW, size=4, devices=4, spread=0.5, rounding=2e-5)
    assert metrics["loss/bags/words/batch/0"] > 1


def test_words_that_are_all_equal_give_equal_bags():
    found = harness.traced(OBOW)
    arrays = {path: 0 * x for path, x in harness.drawn(found.arrays).items()}
    module = found.structure.merge(arrays)
    rows = {f"places/{block}": np.zeros((8, 36, D), np.float32) for block in BLOCKS}
    out = module.across_batch(rows, {}, harness.ctx())
    np.testing.assert_allclose(out["bag/0"], np.full((8, K), 1 / K), rtol=1e-6)
    assert np.isfinite(module.per_step({}, harness.ctx())["weights/1"]).all()


def test_the_teacher_normalizes_a_batch_by_its_own_statistics():
    """As in the released code, whose teacher stays in training mode; the student's running statistics move."""
    recipe = OBOW.replace({"method.image.norm": BatchNorm()})
    found = harness.traced(recipe)
    arrays = {path: np.abs(x) for path, x in harness.drawn(found.arrays).items()}
    seen = jax.device_get(found.computation.augment(batch(), harness.ctx()))
    outputs, moved = found.computation.per_example(arrays, seen, harness.ctx())
    teacher = found.structure.merge(arrays).teacher.image
    inputs = EncoderInputs(seen["image"], ctx=harness.ctx(), intermediate_maps=(0,))
    expected = teacher(inputs).intermediate_maps[0][:, 1:-1, 1:-1].reshape(8, -1, D)
    np.testing.assert_allclose(outputs["places/0"], expected, **CLOSE)
    assert {path.split("/")[0] for path in moved} == {"image"}
    with pytest.raises(UsageError, match="is a statistic over the batch inside an encoder"):
        harness.traced(recipe.replace(microbatch_size=4))


def test_image_is_encoded_by_the_student():
    found = harness.traced(OBOW)
    module = found.structure.merge(harness.drawn(found.arrays))
    outputs = module.per_example({"image": batch()["image"]}, INFERENCE)
    np.testing.assert_allclose(outputs["image"], module.image(EncoderInputs(batch()["image"])).pooled, **CLOSE)


def test_a_running_mean_moves_by_its_output():
    mean = RunningMean(of="x", momentum=0.75, initial=2.0).build(nnx.Rngs(0))
    x = np.float32([[1, 2], [3, 6]])
    np.testing.assert_allclose(mean(x), 0.75 * 2 + 0.25 * 3)
    np.testing.assert_allclose(mean.update(nnx.Module(), {"x": x}, {}, INFERENCE)["value"], 2.25)
    assert not jax.grad(lambda x: mean(x))(x).any()
    with pytest.raises(ValueError, match="a running mean reads the output 'x', which is missing: "):
        mean.update(nnx.Module(), {"y": x}, {}, INFERENCE)


def test_mistakes_are_told_before_the_first_step():
    def said(**fields):
        return problems(BagsOfWords(**{"image": RESNET, "blocks": (0,), **fields}))

    assert not said()
    assert said(blocks=()) == ["blocks names one block at least, and each once, got ()"]
    assert "each once, got (0, 0)" in said(blocks=(0, 0))[0]
    assert "which are not 'image'" in said(crops=("image",))[0]
    assert "teacher.of has image, got head" in said(teacher=Ema(of=("head",)))[0]
    vit = ViT(width=8, depth=1, heads=2, mlp_ratio=1.0, stem=PatchStem(patch=4), any_size=True)
    for fields, sentence in (
        ({"method.vocabulary.size": 4}, "method: vocabulary: a queue of 4 rows is no multiple of the batch of 8"),
        ({"method.blocks": (0, 7)}, r"method: blocks: intermediates \[7\] are not blocks of this encoder"),
        (
            {"method.image": vit, "method.blocks": (0,)},
            "blocks: the map after block 0 has 2 x 2 places, and wor",
        ),
        ({"method.crops": ("crops", "tiny")}, "BagsOfWords reads the field 'tiny', which the batch lacks"),
        ({"objective.bags.levels": ("0", "3")}, "objective.bags reads 'bag/3', which BagsOfWords does not emit"),
    ):
        with pytest.raises(UsageError, match=sentence):
            harness.traced(OBOW.replace(fields))
