"""Float fields of the batch stand for outputs that the method does not emit: stored embeddings in place of a tower."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.errors import UsageError
from jaxrep.mesh import ROWS, Mesh
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import LogitBias
from jaxrep.objectives.base import with_given
from jaxrep.objectives.contrastive import Contrastive, Sigmoid
from jaxrep.objectives.geometry import Alignment
from jaxrep.objectives.separable import Hinge
from jaxrep.objectives.wrappers import EachView, Matryoshka
from jaxrep.optim.rules import Freeze
from jaxrep.recipe import Recipe
from jaxrep.step import grad_cache, train_step
from jaxrep.step.shapes import trace_shapes, warn_of_biases
from tests.helpers import harness
from tests.helpers.harness import QUICK, RECIPE, logged, tiny

IMAGES = DualEncoder(towers={"image": tiny.Patches(), "text": tiny.Ids()}, dim=4, bias=LogitBias())
TEXTS = DualEncoder(towers={"text": tiny.Ids()}, dim=4, bias=LogitBias())
LOCKED = RECIPE.replace(
    {"optimizer.rules": (Freeze(path="image/**"), Freeze(path="image_head/**")), "log.every_steps": 1}, method=IMAGES
)
IDS: dict[str, Any] = {"duplicates": "ignore", "ids": ("text_id",)}
TERMS: dict[str, Any] = {
    "pair": Contrastive("text", "image", **IDS),
    "first": Sigmoid("image", "text"),
    "aligned": Alignment("text", "image"),
    "cut": Matryoshka(Contrastive("image", "text"), (2, 4)),
    "separable": Hinge("text", "image", "negative"),
    "views": EachView(Contrastive("text", "views"), field="views"),
}
"""Terms that read images and texts; the joint ones, one that is a sum over rows, and one of several views."""


def on_stored(**objective: Any) -> Recipe:
    """The recipe that trains the text tower alone."""
    return LOCKED.replace({"optimizer.rules": ()}, method=TEXTS, objective=objective)


def renamed(term: Any) -> Any:
    """The term with stored embeddings in place of the image tower's."""
    if hasattr(term, "term"):
        return type(term)(**{**vars(term), "term": renamed(term.term)})
    return type(term)(**{name: "image_stored" if value == "image" else value for name, value in vars(term).items()})


def fields_of(batch: Mapping[str, Any]) -> dict[str, Field]:
    return {name: Field(x.shape[1:], str(x.dtype), 16) for name, x in batch.items()}


def computed(recipe: Recipe, batch: Mapping[str, Any], size: int, devices: int, values: Mapping[str, Any]):
    """The loss, the metrics and the gradients, by microbatches of ``size`` (0: none) over devices."""
    found = trace_shapes(recipe, fields_of(batch))
    trained = found.trained(found.updater(recipe))
    assert "text/embedding" in trained and "image/kernel" not in trained
    params = {path: values[path] for path in trained}
    other = {path: values[path] for path in found.arrays if path not in params}
    keep, of = train_step.kept_outputs(recipe), found.computation

    @jax.jit(compiler_options=QUICK)
    def compute(params, other, batch):
        args = (params, other, batch, harness.ctx())
        if not size:
            return of.value_and_grad(*args)
        return grad_cache.value_and_grad(of, *args, size=size, keep=keep)

    mesh = Mesh(data=devices).build(jax.devices()[:devices])
    rows, whole = jax.NamedSharding(mesh, ROWS), jax.NamedSharding(mesh, jax.P())
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, whole), jax.device_put(other, whole), jax.device_put(batch, rows)
        (loss, metrics, _, _), gradients = jax.device_get(compute(*placed))
    return loss, metrics, gradients


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    random = np.random.default_rng(1)
    drawn = {"negative": (8, 4), "views": (8, 3, 4)}
    given = {name: random.normal(size=shape).astype(np.float32) for name, shape in drawn.items()}
    return harness.batch() | given | {"image/present": np.arange(8) != 3, "image_stored/present": np.arange(8) != 3}


@pytest.fixture(scope="module")
def values(batch) -> dict[str, Any]:
    return harness.drawn(trace_shapes(LOCKED, fields_of(batch)).arrays)


@pytest.fixture(scope="module")
def stored(batch, values) -> dict[str, Any]:
    """The batch with the locked tower's embeddings in place of its pixels, as ``jaxrep embed`` would give them."""
    found = trace_shapes(LOCKED, fields_of(batch)).computation
    image = np.asarray(found.per_example(values, batch, harness.ctx())[0]["image"])
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    return {name: x for name, x in batch.items() if name != "image"} | {"image_stored": image}


@pytest.fixture(scope="module")
def expected(batch, values):
    """With the locked tower run, on the whole batch and one device."""
    return computed(LOCKED.replace(objective=TERMS), batch, 0, 1, values)


@pytest.mark.parametrize(("size", "devices"), [(0, 1), (0, 8), (2, 1), (8, 8)])
def test_training_on_stored_embeddings_equals_running_the_locked_tower(stored, values, expected, size, devices):
    recipe = on_stored(**{name: renamed(term) for name, term in TERMS.items()})
    loss, metrics, gradients = computed(recipe, stored, size, devices, values)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)  # sums of float32 in another order, of scaled rows
    for name in TERMS:
        np.testing.assert_allclose(metrics[f"loss/{name}"], expected[1][f"loss/{name}"], rtol=1e-5, err_msg=name)
    assert gradients.keys() == expected[2].keys()
    for path, gradient in expected[2].items():
        np.testing.assert_allclose(gradients[path], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=path)


def test_steps_train_on_stored_embeddings_and_measure_them(stored):
    recipe = LOCKED.replace(
        {"optimizer.rules": ()}, method=TEXTS, objective={"pair": Contrastive("text", "image_stored")}
    )
    found = trace_shapes(recipe, fields_of(stored))
    updater = found.updater(recipe)
    outputs = {"text": stored["image_stored"], "scale": np.float32(1)}
    measured = train_step.pairwise_metrics(recipe, found, outputs, stored, jnp.int32(1))
    assert measured["embeddings/text-image_stored/alignment"] == pytest.approx(0, abs=1e-6)
    assert updater.trained and not any(path.startswith("image") for path in found.arrays)


def test_an_output_is_read_before_a_field_of_its_name():
    outputs, batch = {"a": np.zeros((2, 3), np.float32)}, {"a": np.ones((2, 3), np.float32)}
    assert with_given(("a",), outputs, batch)["a"] is outputs["a"]
    assert with_given((), {}, batch) == {}, "what no term reads is not given"


@pytest.mark.parametrize(
    ("name", "field"),
    [("label", Field((), "int32")), ("pixels", Field((4, 4, 3), "float32")), ("seen", Field((), "bool"))],
)
def test_other_fields_are_no_outputs(name, field):
    fields = {**fields_of(harness.batch()), name: field}
    with pytest.raises(UsageError, match=f"reads '{name}', which DualEncoder does not emit: .*there are: image, "):
        trace_shapes(RECIPE.replace(objective={"pair": Contrastive("text", name)}), fields)


def test_an_unknown_name_is_told_with_outputs_and_given_fields():
    fields = {**fields_of(harness.batch()), "image_stored": Field((4,), "float32")}
    with pytest.raises(UsageError) as error:
        trace_shapes(RECIPE.replace(objective={"pair": Contrastive("text", "image_storde")}), fields)
    assert str(error.value) == (
        "objective.pair reads 'image_storde', which DualEncoder does not emit: did you mean image_stored? there are: "
        "image, image/pooled, image/tokens, image_stored, scale, text, text/pooled"
    )


def test_stored_embeddings_of_another_width_are_told_before_training(stored):
    fields = {**fields_of(stored), "image_stored": Field((5,), "float32")}
    recipe = LOCKED.replace(
        {"optimizer.rules": ()}, method=TEXTS, objective={"pair": Contrastive("text", "image_stored")}
    )
    with pytest.raises(UsageError, match=r"objective\.pair"):
        trace_shapes(recipe, fields)


def test_the_warning_of_a_bias_counts_the_rows_of_a_given_side(stored):
    recipe = on_stored(pair=Sigmoid("image_stored", "text"))
    with logged() as messages:
        warn_of_biases(recipe, trace_shapes(recipe, fields_of(stored)))
    assert any("among the 8 rows" in message for message in messages)
