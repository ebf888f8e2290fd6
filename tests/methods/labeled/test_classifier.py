"""Check a classifier with a head before its classes: outputs, widths, microbatches."""

import flax.nnx as nnx
import jax
import numpy as np
import pytest

from jaxrep.batch import INFERENCE, Field
from jaxrep.methods import Classifier, Linear, Projector, ScaleFeatures
from jaxrep.objectives import CrossEntropy
from jaxrep.spec import problems
from tests.helpers.harness import RECIPE, exact, tiny

IMAGES = {"image": Field((8, 8, 3), "uint8")}


def outputs(method):
    module = method.build(nnx.Rngs(0), inputs=IMAGES)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    return jax.jit(lambda: {**module.per_example({"image": images}, INFERENCE), **module.per_step({}, INFERENCE)})()


def test_classes_read_the_features_after_the_head():
    plain = outputs(Classifier(encoder=tiny.Patches(), classes=3))
    width = plain["image"].shape[1]
    np.testing.assert_array_equal(plain["image/projected"], plain["image"])
    fixed = outputs(Classifier(encoder=tiny.Patches(), classes=3, projector=ScaleFeatures(kappa=1.5)))
    np.testing.assert_array_equal(fixed["image"], plain["image"])
    np.testing.assert_allclose(fixed["image/projected"], plain["image"] * 1.5 ** -np.arange(width), rtol=1e-5)
    np.testing.assert_array_equal(fixed["classes"], plain["classes"])
    mlp = Projector(widths=(7, 5), norm="none", bias=True)
    assert outputs(Classifier(encoder=tiny.Patches(), classes=3, projector=mlp))["classes"].shape == (3, 5)
    nested = outputs(Classifier(encoder=tiny.Patches(), classes=3, projector=mlp, dims=(2, 5)))
    assert nested["classes/2"].shape == (3, 2) and nested["classes/5"].shape == (3, 5)


def test_gradients_are_equal_under_microbatches_and_devices():
    method = Classifier(encoder=tiny.Patches(), classes=10, projector=Linear(features=4))
    terms = {"classes": CrossEntropy("image/projected", label="label")}
    exact(RECIPE.replace(method=method, objective=terms), size=4, devices=2)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"projector": Projector(widths=(5,), last_norm=True)}, "batch norm, which rows of one microbatch cannot have"),
        ({"projector": Linear(features=4), "dims": (2, 5)}, "dims has the width 5, and the features are 4 wide"),
    ],
)
def test_bad_input_is_one_sentence(fields, sentence):
    (problem,) = problems(Classifier(encoder=tiny.Patches(), classes=3, **fields))
    assert sentence in problem
