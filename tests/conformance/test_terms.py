"""Every exported term keeps the promises of ``jaxrep.objectives.Term``.

A new term joins by being exported: give it an example in EXAMPLES.
"""

import dataclasses
import functools
import inspect
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tyro._docstrings import get_field_docstring

from jaxrep import objectives
from jaxrep.batch import StepContext
from jaxrep.mesh import ROWS, Mesh
from jaxrep.objectives import Contrastive, CrossEntropy, SeparableTerm, Term, evaluate
from jaxrep.spec import problems
from jaxrep.spec_json import from_json, to_json
from tests.helpers.harness import QUICK

IDS = ("image_id", "text_id")
EXAMPLES: dict[str, Term] = {
    type(term).__name__: term
    for term in (
        objectives.ActivationNorm(("image", "text")),
        objectives.Alignment("image", "text"),
        objectives.AllViews(Contrastive("grouped", "captions")),
        objectives.BagPrediction(("0", "1"), ("local", "image")),
        objectives.BarlowTwins("image", "text"),
        objectives.BoxLoss("predicted", kind="giou"),
        Contrastive(
            "image", "text", duplicates="ignore", ids=IDS, extra_b="hard", weights="trust", label_smoothing=0.1
        ),
        objectives.Covariance("image"),
        CrossEntropy("image"),
        objectives.Dino(),
        objectives.EachView(Contrastive("image", "captions"), field="captions"),
        objectives.Fused(Contrastive("image", "text"), "text", "knowledge"),
        objectives.HardMixtures(
            Contrastive("image", "text", extra_b="queue", in_batch=False, direction="a_to_b"),
            nearest=2,
            mixed=3,
            with_query=2,
        ),
        objectives.Hinge("image", "text", "negative"),
        objectives.Ibot(),
        objectives.KoLeo(),
        objectives.LayerAlignment("image"),
        objectives.Matryoshka(CrossEntropy("image"), (2, 4)),
        objectives.MeanSquare("image", "text"),
        objectives.MetricLearning("image", kind="proxy_anchor", proxies="proxies"),
        objectives.MixedMetricLearning("image", kind="contrastive"),
        objectives.MixedNegatives("image", "text"),
        objectives.MixedPairs("image", "text", mixed="both"),
        objectives.MixedTwins("mixed", "image", "text"),
        objectives.PatchPosition("places"),
        objectives.MultiScaleReconstruction(larger=("image_2x",), patch=2, groups=((0, 2), (1,))),
        objectives.PlaceAgreement("map", "other map", ("map/box", "other map/box")),
        objectives.PlaceContrast("map", "other map", ("map/box", "other map/box")),
        objectives.PrimaryComponents(Contrastive("image", "text"), count=2),
        objectives.Reconstruction("patches", target="photo", patch=2, patch_norm=True, kind="l1"),
        objectives.SampledLayer(Contrastive("image", "text")),
        objectives.Sigmoid("image", "text", duplicates="positive", ids=IDS, extra_a="queue"),
        objectives.Uniformity("image", "text", ids=IDS),
        objectives.Variance("image", target=2.0),
    )
}

B, D = 8, 6
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


SHARED = {
    **{f"weights/{level}": normal(7, D) for level in "01"},
    "scale": np.float32(4),
    "bias": np.float32(-2),
    "classes": normal(5, 4),
    "classes/bias": normal(5),
    "proxies": normal(3, D),
    "queue": normal(3, D),
    **{
        f"{teacher}{table}": normal(7, D)
        for teacher in ("", "teacher/")
        for table in ("prototypes", "patch_prototypes")
    },
}
ROW_OUTPUTS = {
    **{name: normal(B, D) for name in ("image", "text", "knowledge", "negative", "mixed")},
    **{name: normal(B, 2, D) for name in ("hard", "student", "teacher", "local", "student/pooled")},
    **{name: normal(B, 3, D) for name in ("grouped", "captions", "image/layers", "text/layers")},
    **{f"{model}/patches": normal(B, 2, 3, D) for model in ("student", "teacher")},
    **{name: normal(B, 2, 3, D) for name in ("map", "other map")},
    **{f"bag/{level}": RANDOM.dirichlet(np.ones(7), B).astype(np.float32) for level in "01"},
    "mixed/partner": np.roll(np.arange(B, dtype=np.int32), 3),
    "mixed/share": RANDOM.random(B).astype(np.float32),
    "places": np.random.default_rng(1).normal(size=(B, 4, 4)).astype(np.float32),
    "patches": normal(B, 3, 12),
    "picture": np.random.default_rng(2).normal(size=(B, 4, 6, 3)).astype(np.float32),
    "picture/2": np.random.default_rng(3).normal(size=(B, 8, 12, 3)).astype(np.float32),
    "predicted": RANDOM.uniform(0.2, 0.8, (B, 2, 4)).astype(np.float32),
}
OUTPUTS = {**SHARED, **ROW_OUTPUTS}
BATCH: dict[str, Any] = {
    "position": np.stack([np.zeros(B), np.arange(B)], axis=1).astype(np.uint32),
    "label": np.array([0, 1, 2, -1, 2, 0, -1, 1], np.int32),
    "image_id": np.array([0, 1, 2, 0, 4, 5, 6, 7], np.int32),
    "text_id": np.array([0, 1, 1, 2, 3, 3, 3, 4], np.int32),
    "trust": np.linspace(0.5, 2, B).astype(np.float32),
    "boxes": RANDOM.uniform(0.2, 0.8, (B, 2, 4)).astype(np.float32),
    "region/present": np.arange(2 * B).reshape(B, 2) % 3 > 0,
    "map/box": np.tile(np.float32([0.1, 0.2, 0.9, 0.7]), (B, 1)),
    "other map/box": np.tile(np.float32([0.8, 0.1, 0.3, 0.6]), (B, 1)),
    "mixed/share": ROW_OUTPUTS["mixed/share"],
    "mixed/partner": ROW_OUTPUTS["mixed/partner"],
    "image": RANDOM.integers(0, 256, (B, 4, 6, 3), dtype=np.uint8),
    "image_2x": np.random.default_rng(4).random((B, 8, 12, 3), np.float32),
    "image/masked": np.random.default_rng(5).permuted(np.arange(12 * B).reshape(B, 12) % 12 < 9, axis=1),
    "photo": np.random.default_rng(6).integers(0, 256, (B, 4, 6, 3), dtype=np.uint8),
    "photo/masked_index": (np.arange(3 * B).reshape(B, 3) % 6 - 1).astype(np.int32),
    "a/masked_index": (np.arange(3 * B).reshape(B, 3) % 5 - 1).astype(np.int32),
    "b/masked_index": (np.arange(3 * B).reshape(B, 3) % 4 - 1).astype(np.int32),
}
every_term = pytest.mark.parametrize("name", EXAMPLES)


def context(batch: Any) -> StepContext:
    return StepContext(step=np.int32(3), base_key=jax.random.key(0), positions=batch["position"], total_steps=10)


def test_every_exported_term_has_an_example():
    exported = {name: getattr(objectives, name) for name in objectives.__all__}  # pyright: ignore[reportAttributeAccessIssue]
    terms = {
        name
        for name, value in exported.items()
        if inspect.isclass(value) and issubclass(value, Term) and not inspect.isabstract(value)
    }
    assert terms == {*EXAMPLES}, f"add an example of {sorted(terms ^ {*EXAMPLES})} to EXAMPLES of this file"


@every_term
def test_term_is_valid_and_returns_from_json(name: str):
    term = EXAMPLES[name]
    assert not problems(term)
    assert from_json(json.loads(json.dumps(to_json(term)))) == term


@every_term
def test_every_field_has_help(name: str):
    cls = type(EXAMPLES[name])
    missing = [field.name for field in dataclasses.fields(cls) if not get_field_docstring(cls, field.name, ())]
    assert not missing, f"{name}: write a docstring below {missing}"


@every_term
def test_term_reads_what_it_declares(name: str):
    """It works with the declared arrays alone, and asks for each of them."""
    term = EXAMPLES[name]
    outputs = {x: jnp.asarray(OUTPUTS[x]) for x in term.reads}
    batch = {x: jnp.asarray(BATCH[x]) for x in (*term.needs, "position")}
    assert {*term.embeddings} <= {*term.reads}

    def loss(outputs: Any, batch: Any) -> Any:
        return jax.eval_shape(lambda outputs, batch: term(outputs, batch, context(BATCH))[0], outputs, batch)

    loss(outputs, batch)
    for x in term.reads:
        with pytest.raises(KeyError, match=x):
            loss({key: value for key, value in outputs.items() if key != x}, batch)
    for x in term.needs:
        with pytest.raises(KeyError, match=x):
            loss(outputs, {key: value for key, value in batch.items() if key != x})


@every_term
def test_missing_output_is_one_sentence(name: str):
    term = EXAMPLES[name]
    outputs = {key: value for key, value in OUTPUTS.items() if key != term.reads[0]}
    with pytest.raises(
        ValueError, match=f"^objective.loss reads the output '{term.reads[0]}', which is missing: .*there"
    ):
        evaluate({"loss": term}, outputs, BATCH, context(BATCH))


@functools.cache
def value_and_gradients(name: str, devices: int) -> tuple[Any, dict[str, Any]]:
    """Return the loss and its gradients by every output of floats that the term reads, with rows over devices."""
    term, mesh = EXAMPLES[name], Mesh(data=devices).build(jax.devices()[:devices])
    rows, replicated = jax.NamedSharding(mesh, ROWS), jax.NamedSharding(mesh, jax.P())
    outputs = {x: jax.device_put(OUTPUTS[x], replicated if x in SHARED else rows) for x in term.reads}
    floats = {x: value for x, value in outputs.items() if value.dtype == jnp.float32}

    @functools.partial(jax.jit, compiler_options=QUICK)
    def loss(floats: Any, batch: Any) -> Any:
        return jax.value_and_grad(lambda floats: term({**outputs, **floats}, batch, context(batch))[0])(floats)

    with jax.set_mesh(mesh):
        return jax.device_get(loss(floats, jax.device_put(BATCH, rows)))


@every_term
def test_loss_is_a_float32_scalar_with_finite_gradients(name: str):
    loss, gradients = value_and_gradients(name, 1)
    assert loss.shape == () and loss.dtype == np.float32 and np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert all(gradients[x].any() for x in EXAMPLES[name].embeddings), "every embedding has a gradient"


@every_term
def test_two_devices_give_the_same_loss_and_gradients(name: str):
    expected, got = value_and_gradients(name, 1), value_and_gradients(name, 2)
    # float32 sums in another order; gradients against their largest number, as parts cancel.
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5)
    for x, gradient in expected[1].items():
        np.testing.assert_allclose(got[1][x], gradient, rtol=0, atol=2e-5 * max(np.abs(gradient).max(), 1e-2))


@pytest.mark.parametrize("name", [name for name, term in EXAMPLES.items() if term.separable])
def test_separable_term_is_the_sum_over_halves(name: str):
    term = EXAMPLES[name]
    assert isinstance(term, SeparableTerm)
    sums = np.zeros(2)
    for half in (slice(0, B // 2), slice(B // 2, B)):
        outputs = {x: jnp.asarray(OUTPUTS[x] if x in SHARED else OUTPUTS[x][half]) for x in term.reads}
        batch = {x: jnp.asarray(value[half]) for x, value in BATCH.items()}
        weights = term.example_weights(batch)
        sums += np.array([jnp.sum(term.per_example(outputs, batch, context(batch)) * weights), jnp.sum(weights)])
    np.testing.assert_allclose(sums[0] / sums[1], value_and_gradients(name, 1)[0], rtol=1e-5)
