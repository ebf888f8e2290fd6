"""Barlow Twins with mixed inputs: statistics and mixing over the whole batch, by any microbatch, on any devices."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import INFERENCE
from jaxrep.encoders.image.convolution import GroupNorm
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.errors import UsageError
from jaxrep.methods.self_supervised.projector import Projector
from jaxrep.methods.self_supervised.siamese import Siamese
from jaxrep.objectives.geometry import BarlowTwins, MixedTwins
from jaxrep.views.color import ColorJitter
from jaxrep.views.fields import CopyField, MixUpFields
from jaxrep.views.geometry import RandomHorizontalFlip
from tests.helpers import harness
from tests.helpers.harness import RECIPE, batch

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
RESNET: Any = ResNet(depths=(1,), width=4, bottleneck=False, stem="small")


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
    assert set(outputs) == {"image", "image/pooled"} and outputs["image"].shape == (8, 8)
