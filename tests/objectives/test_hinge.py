"""Check the terms of NegCLIP and Structure-CLIP against NumPy, and their gradients by microbatches."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.encoders.text.triple_transformer import TripleTransformer
from jaxrep.methods.heads import Linear
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.separable import Hinge
from jaxrep.objectives.wrappers import Fused
from jaxrep.schedules import Constant
from jaxrep.spec import problems, spec
from tests.helpers.harness import RECIPE, agree, batch, computed, ctx, tiny

B, D = 8, 6
RNG = np.random.default_rng(0)
OUTPUTS: dict[str, Any] = {
    name: RNG.normal(size=(B, D)).astype(np.float32) for name in ("image", "text", "negative", "knowledge")
}
OUTPUTS["scale"] = np.float32(5)
BATCH = {"position": np.zeros((B, 2), np.uint32)}
PRESENT = np.array([1, 1, 0, 1, 1, 0, 1, 1], bool)


def unit(name):
    x = np.float64(OUTPUTS[name])
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def value(term, batch=BATCH):
    return jax.jit(lambda outputs: term(outputs, batch, ctx())[0])(OUTPUTS)


def test_hinge_is_mean_over_rows_with_a_negative():
    image, text, negative = (unit(name) for name in ("image", "text", "negative"))
    losses = np.maximum(0, 0.4 - (image * text).sum(1) + (image * negative).sum(1))
    term = Hinge("image", "text", "negative", margin=0.4)
    np.testing.assert_allclose(value(term), losses.mean(), rtol=1e-5)
    marked = {**BATCH, "negative/present": PRESENT}
    np.testing.assert_allclose(value(term, marked), losses[PRESENT].mean(), rtol=1e-5)
    assert value(term, {**BATCH, "negative/present": np.zeros(B, bool)}) == 0


def test_fused_term_reads_sum_of_unit_rows():
    term = Fused(Contrastive("image", "text"), "text", "knowledge", factor=0.2)
    fused = unit("text") + 0.2 * unit("knowledge") * PRESENT[:, None]
    logits = 5 * unit("image") @ (fused / np.linalg.norm(fused, axis=1, keepdims=True)).T
    logs = [logits - np.log(np.exp(logits).sum(axis, keepdims=True)) for axis in (0, 1)]
    loss = value(term, {**BATCH, "knowledge/present": PRESENT})
    np.testing.assert_allclose(loss, -np.mean([np.diag(x) for x in logs]), rtol=1e-5)
    everywhere = value(term, {**BATCH, "knowledge/present": np.ones(B, bool)})
    assert value(term) == everywhere != loss


@pytest.mark.parametrize(
    ("term", "sentence"),
    [
        (Hinge("image", "text", "negative", margin=-0.1), "margin: expected a number of at least 0 and of at most 2"),
        (Fused(Contrastive("image", "text"), "sound", "knowledge"), "the term reads image, text, and not 'sound'"),
    ],
)
def test_problems_are_named(term, sentence):
    assert sentence in problems(term)[0]


@spec
class Graphs(tiny.Named):
    """Add a wrong name and two triples to each named image."""

    def fields(self):
        text, present = Field((), "str"), Field((), "bool")
        knowledge = {"knowledge": Field((6,), "str"), "knowledge/present": present}
        wrong = {"negative": text, "negative/present": present, "negative_id": Field((), "int32")}
        return {**super().fields(), **knowledge, **wrong}


def test_gradients_by_microbatches_equal_whole_batch():
    pairs = Contrastive("image", "text", extra_b="negative", duplicates="ignore", ids=("image_id", "text_id"))
    knowledge = TripleTransformer(width=8, depth=1, heads=2, tokens=3, special=1, dropout=0.2)
    dual: Any = RECIPE.method
    recipe = RECIPE.replace(
        {
            "data.train": Graphs(),
            "data.texts": ("text", "negative", "knowledge"),
            "method.towers": {**dual.towers, "knowledge": knowledge},
            "method.heads": {"knowledge": Linear(features=dual.dim)},
            "method.shared_towers": {"negative": "text"},
        },
        objective={
            "pairs": Fused(pairs, "text", "knowledge"),
            "hinge": Hinge("image", "text", "negative", weight=Constant(value=5.0)),
        },
    )
    names = batch()["text_id"]
    length, vocabulary = recipe.data.tokenizer.length, recipe.data.tokenizer.vocab_size
    fields = {
        "negative": RNG.integers(0, vocabulary, (B, length), dtype=np.int32),
        "negative/valid": np.ones((B, length), bool),
        "negative/present": PRESENT,
        "negative_id": np.where(np.arange(B) % 3, np.roll(names, 3), 99).astype(np.int32),
        "knowledge": RNG.integers(0, vocabulary, (B, 6, length), dtype=np.int32),
        "knowledge/present": ~PRESENT,
        "knowledge/valid": np.arange(length) < RNG.integers(0, 4, (B, 6, 1)),
    }
    both, params = computed(recipe, (0, 4))
    found = jax.device_get(both(params, {**batch(), **fields}, ctx()))
    agree(found, 4)
    metrics, gradients = found[0][1], found[0][2]
    assert metrics["loss/hinge"] > 0 and metrics["loss/pairs"] > 0
    assert np.abs(gradients["knowledge/embedding"]).max() > 0
