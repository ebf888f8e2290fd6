"""Pixel propagation equals PixPro's released function, a loop of its equations, and refuses what has no places."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import INFERENCE, StepContext
from jaxrep.encoders.base import EncoderInputs
from jaxrep.encoders.image.convolution import GroupNorm
from jaxrep.encoders.image.resnet import ResNet
from jaxrep.errors import UsageError
from jaxrep.methods.self_supervised.dense import Propagation
from jaxrep.methods.self_supervised.projector import Projector
from jaxrep.methods.self_supervised.siamese import Siamese
from jaxrep.methods.state import Ema
from jaxrep.objectives import PlaceAgreement, PlaceContrast
from jaxrep.spec import problems
from jaxrep.views.fields import CopyField
from jaxrep.views.geometry import RandomHorizontalFlip, RandomResizedCrop
from tests.helpers import harness
from tests.helpers.loss_oracle import derivative
from tests.losses.test_dense import (
    BIAS,
    BOXES,
    KERNEL,
    RELEASED,
    B,
    D,
    X,
    Y,
    contrast_by_hand,
    near,
    near_by_hand,
    unit,
)

# Every seventh number of ``PixPro.featprop`` of X at unit length, of zdaxie/PixPro, contrast/models/PixPro.py, run in
# float64 by torch with ``pixpro_p`` 2 and one linear map.
RELEASED_PROPAGATION = np.array(
    [
        [0.60596286, 0.51231669, -0.11030364, -0.18501656, -0.03183439,
         -0.35090424, 0.09341122, -0.37340369, 0.12635525],
        [-0.02098383, 0.3086452, 0.22055934, -0.62289295, -0.59214819,
         -0.03797974, 0.69563654, -0.20616321, 0.21060628],
        [0.22355738, 0.7979971, -0.54240514, -0.48481589, -0.4986058,
         0.12833537, 0.39355558, 0.38360064, -0.2484235],
        [-0.33100086, -0.20066359, -0.79400695, -0.01635567, -0.13119386,
         0.34812427, 0.18765096, 0.68338784, -0.6841429],
    ]
)  # fmt: skip
CLOSE = dict(rtol=5e-5, atol=5e-6)  # float32 sums of a few numbers near one
PIXPRO = harness.RECIPE.replace(
    data=harness.RECIPE.data.__class__(train=harness.RECIPE.data.train, batch_size=8, texts=()),
    views=tuple(
        view
        for name in "ab"
        for view in (
            CopyField("image", out=name),
            RandomResizedCrop(name, size=6, scale=(0.3, 0.9), tell_box=True),
            RandomHorizontalFlip(name),
        )
    ),
    method=Siamese(
        image=ResNet(depths=(1, 1), width=4, bottleneck=False, stem="small", norm=GroupNorm(groups=2)),
        projector=Projector(widths=(6, 5), bias=True),
        predictor=Propagation(),
        targets=("a", "b"),
        teacher=Ema(of=("image", "projector")),
        places=True,
    ),
    objective={x: PlaceAgreement(f"{x}/predicted", f"{y}/target", (f"{x}/box", f"{y}/box")) for x, y in ("ab", "ba")},
)
BATCH = {"a/box": np.float32(BOXES[:, 0]), "b/box": np.float32(BOXES[:, 1])}


def built(power=2.0):
    module = Propagation(power=power).build(nnx.Rngs(0), inputs=D)
    module.values.kernel.set_value(jnp.float32(KERNEL))
    module.values.bias.set_value(jnp.float32(BIAS))
    return module


def by_hand(x, power):
    """The equations, by loops over places; [N,D]."""
    values = unit(x @ KERNEL + BIAS)
    out = []
    for place in x:
        cosines = [unit(place) @ unit(other) for other in x]
        out.append(sum(c**power * v for c, v in zip(cosines, values, strict=True) if c.real > 0))
    return np.array(out)


def test_propagation_is_that_of_the_released_code():
    found = unit(np.float64(built()(np.float32(X))))
    assert found.shape == X.shape
    np.testing.assert_allclose(found.reshape(B, -1)[:, ::7], RELEASED_PROPAGATION, **CLOSE)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_propagation_equals_loops_over_places(power):
    weights = np.random.default_rng(1).normal(size=X[0].shape)
    module = built(power)

    def value(x):
        return jnp.sum(module(x[None])[0] * weights)

    def expected(x):
        return (by_hand(x.reshape(-1, D), power) * weights.reshape(-1, D)).sum()

    found, slope = jax.jit(jax.value_and_grad(value))(np.float32(X[0]))
    np.testing.assert_allclose(found, expected(X[0]), rtol=1e-4)
    np.testing.assert_allclose(slope, derivative(expected, X[0]), rtol=1e-4, atol=2e-5)


def test_crops_on_a_second_axis_are_propagated_each():
    module, x = built(), np.float32(X)
    np.testing.assert_allclose(module(x.reshape(2, 2, *X.shape[1:])).reshape(X.shape), module(x), rtol=1e-6)
    with pytest.raises(ValueError, match=r"Propagation reads maps \[B,h,w,D\], got \(4, 5\): set places = True"):
        module(x[:, 0, 0])
    assert problems(Propagation(power=0.5)) == ["power: expected a number of at least 1 and of at most 100, got 0.5"]


def test_term_of_both_directions_is_the_released_loss():
    outputs = {"a/predicted": built()(np.float32(X)), "b/target": np.float32(Y)}
    term = PlaceAgreement("a/predicted", "b/target", ("a/box", "b/box"))
    loss, metrics = term(outputs, BATCH, StepContext())
    np.testing.assert_allclose(loss, np.mean(RELEASED), **CLOSE)
    np.testing.assert_allclose(metrics["pairs"], near().sum((1, 2)).mean())
    np.testing.assert_allclose(metrics["overlap"], 0.75)
    # Read the other way round the same pairs meet, so the other direction of these maps is the same number.
    back = PlaceAgreement("b/target", "a/predicted", ("b/box", "a/box"))
    np.testing.assert_allclose(back(outputs, BATCH, StepContext())[0], loss, rtol=1e-5)


def test_term_of_the_contrast_equals_its_equation():
    outputs = {"a": np.float32(X), "b/target": np.float32(Y)}
    term = PlaceContrast("a", "b/target", ("a/box", "b/box"), temperature=0.2)
    expected = contrast_by_hand(X.reshape(B, -1, D), Y.reshape(B, -1, D), near(), 0.2).mean()
    np.testing.assert_allclose(term(outputs, BATCH, StepContext())[0], expected, **CLOSE)
    assert replace(term, radius=0.1)(outputs, BATCH, StepContext())[1]["pairs"] < near().sum((1, 2)).mean()


def test_rows_without_places_and_boxes_of_other_shapes_are_named():
    term = PlaceAgreement("a", "b", ("a/box", "b/box"))
    with pytest.raises(ValueError, match=r"^'a' has shape \(4, 5\), where places are read from a map \[B,h,w,D\]"):
        term({"a": np.float32(X[:, 0, 0]), "b": np.float32(Y)}, BATCH, StepContext())
    with pytest.raises(ValueError, match=r"^'b/box' has shape \(4, 2, 4\), where one box per picture is expected"):
        term({"a": np.float32(X), "b": np.float32(Y)}, {**BATCH, "b/box": np.float32(BOXES)}, StepContext())


def test_places_of_views_are_projected_propagated_and_taught():
    found = harness.traced(PIXPRO)
    arrays = harness.drawn(found.arrays)
    module, ctx = found.structure.merge(arrays), harness.ctx()
    seen = jax.device_get(found.computation.augment(harness.batch(), ctx))
    rows, _ = found.computation.per_example(arrays, seen, ctx)
    out, _ = found.computation.across_batch(arrays, rows, seen, ctx)
    for name in "ab":
        x = module.image(EncoderInputs(seen[name])).map
        assert x.shape == rows[f"{name}/map"].shape == (8, 3, 3, 8)
        np.testing.assert_allclose(rows[f"{name}/map"], x, rtol=1e-4, atol=1e-4)
        projected = module.projector(x)
        np.testing.assert_allclose(out[name], projected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(out[f"{name}/predicted"], module.predictor(projected), rtol=2e-3, atol=2e-3)
        target = module.teacher.projector(module.teacher.image(EncoderInputs(seen[name])).map)
        np.testing.assert_allclose(out[f"{name}/target"], target, rtol=1e-3, atol=1e-3)
    assert rows["image/tokens"].shape == (8, 9, 8)
    # The boxes of the batch are those of the pairs: both directions by loops.
    total = 0.0
    for x, y in ("ab", "ba"):
        a, b = (unit(np.float64(out[n]).reshape(8, 9, -1)) for n in (f"{x}/predicted", f"{y}/target"))
        for n in range(8):
            mask = near_by_hand(seen[f"{x}/box"][n], seen[f"{y}/box"][n], (3, 3), (3, 3), 0.7)
            total -= 2 * ((a[n] @ b[n].T) * mask).sum() / (mask.sum() + 1e-6) / 8
    losses = [term(out, seen, ctx)[0] for term in PIXPRO.objective.values()]
    np.testing.assert_allclose(sum(losses), total, rtol=1e-4, atol=1e-5)
    outputs = module.per_example({"image": harness.batch()["image"]}, INFERENCE)
    assert {*outputs} == {"image", "image/map", "image/tokens"}


@pytest.mark.slow
def test_gradients_are_equal_under_microbatches_and_devices():
    _, metrics, _ = harness.exact(PIXPRO, size=4, devices=4, spread=0.5, rounding=2e-5)
    assert metrics["loss/a/pairs"] > 1 and metrics["loss/a/overlap"] > 0.5


def test_crops_that_do_not_tell_their_box_and_heads_without_places_are_named():
    def said(sentence, recipe):
        with pytest.raises(UsageError, match=sentence):
            harness.traced(recipe)

    silent: list[Any] = [replace(view, tell_box=False) if hasattr(view, "tell_box") else view for view in PIXPRO.views]
    sentence = r"^objective.a needs the field 'a/box' of the batch: the crop of a view tells it .* tell_box = True$"
    said(sentence, PIXPRO.replace(views=tuple(silent)))
    pooled = PIXPRO.replace({"method.places": False})
    said(r"Propagation reads maps \[B,h,w,D\], got \(8, 5\): set places = True in Siamese", pooled)
    contrast = {"a": PlaceContrast("a", "b/target", ("a/box", "b/box"))}
    unpredicted = pooled.replace({"method.predictor": None}, objective=contrast)
    said(r"'a' has shape \(8, 5\), where places are read from a map", unpredicted)
