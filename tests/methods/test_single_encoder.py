"""2D Matryoshka: its objective is the paper's, a layer is drawn a step, and microbatches and devices change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import INFERENCE
from jaxrep.encoders.text.text_transformer import TextTransformer
from jaxrep.methods.single_encoder import SentenceEncoder
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.wrappers import LayerAlignment, Matryoshka, SampledLayer, sampled_layer
from jaxrep.spec import problems, spec
from jaxrep.views.base import View
from tests.helpers import harness
from tests.helpers.harness import RECIPE, batch

DEPTH, WIDTHS = 3, (8, 4, 2)
NESTED = Matryoshka(Contrastive("a", "b", direction="a_to_b"), WIDTHS, (1.0, 0.5, 0.5))
OBJECTIVE = {"last": NESTED, "sampled": SampledLayer(NESTED), "align": LayerAlignment("a", temperature=0.5)}


@spec
class Twice(View):
    """Two texts a row: the row's own, and that with every word replaced by the next one."""

    def __call__(self, batch, ctx):
        pair = jnp.stack([batch["text"], jnp.where(batch["text"] > 0, (batch["text"] + 1) % 16, 0)], 1)
        return {**batch, "text": pair, "text/valid": jnp.stack([batch["text/valid"]] * 2, 1)}


TEXT = TextTransformer(width=8, depth=DEPTH, heads=2, mlp_ratio=1.0, dropout=0.1, causal=False, pool="mean")
SENTENCES = RECIPE.replace(method=SentenceEncoder(text=TEXT), objective=OBJECTIVE, views=(Twice(),))


@pytest.fixture(scope="module")
def whole():
    return harness.exact(SENTENCES, size=2, devices=2, spread=0.5)


@pytest.mark.slow
def test_gradients_are_equal_under_microbatches_and_devices(whole):
    loss, metrics, gradients = whole
    np.testing.assert_allclose(loss, sum(metrics[f"loss/{name}"] for name in OBJECTIVE), rtol=1e-6)
    assert {path for path, leaf in gradients.items() if np.abs(leaf).max() < 1e-6} <= {"text/blocks/attention/key/bias"}


def by_hand(outputs, layer):
    """Sections 3.2 to 3.4, in float64: in-batch contrast of last and sampled layer at each width, and the alignment."""

    def contrast(a, b):
        total = 0.0
        for width, weight in zip(WIDTHS, (1.0, 0.5, 0.5), strict=True):
            x, y = (v[:, :width] / np.linalg.norm(v[:, :width], axis=1, keepdims=True) for v in (a, b))
            logits = 20 * x @ y.T
            total -= weight * np.mean(np.diag(logits) - np.log(np.exp(logits).sum(1)))
        return total

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    a, b, a_layers, b_layers = (np.float64(outputs[name]) for name in ("a", "b", "a/layers", "b/layers"))
    student, teacher = softmax(a_layers[:, layer] / 0.5), softmax(a / 0.5)
    align = 0.5**2 * np.mean(np.sum(teacher * np.log(teacher / student), 1))
    return {"last": contrast(a, b), "sampled": contrast(a_layers[:, layer], b_layers[:, layer]), "align": align}


def test_objective_equals_the_papers_equations():
    rng = np.random.default_rng(0)
    drawn = {name: rng.normal(size=(8, DEPTH, 8)).astype(np.float32) for name in ("a", "b")}
    outputs = {f"{name}/layers": x for name, x in drawn.items()} | {name: x[:, -1] for name, x in drawn.items()}
    outputs["scale"] = np.float32(20)
    compute = jax.jit(lambda outputs, ctx: {x: term(outputs, batch(), ctx)[0] for x, term in OBJECTIVE.items()})
    layers = set()
    for step in range(6):
        ctx = harness.ctx(step)
        layer = int(sampled_layer(ctx, DEPTH))
        expected = by_hand(outputs, layer)
        for name, loss in compute(outputs, ctx).items():
            # float32 rounding of logits up to 20.
            np.testing.assert_allclose(loss, expected[name], rtol=2e-5, err_msg=name)
        layers.add(layer)
    assert layers == set(range(DEPTH - 1))  # any but the last


def test_layer_features_equal_a_shallower_encoder():
    found = harness.traced(SENTENCES)
    arrays = harness.drawn(found.arrays)
    texts = {"text": batch()["text"], "text/valid": batch()["text/valid"]}

    def encode(found, arrays):
        return jax.jit(lambda arrays: found.structure.merge(arrays).per_example(texts, INFERENCE))(arrays)

    outputs = encode(found, arrays)
    assert set(outputs) == {"text", "text/layers"}
    np.testing.assert_array_equal(outputs["text/layers"][:, -1], outputs["text"])
    short = SENTENCES.replace(method=SentenceEncoder(text=dataclasses.replace(TEXT, depth=2)))
    cut = {path: x[:2] if "/blocks/" in path else x for path, x in arrays.items()}
    ended = encode(harness.traced(short), cut)
    np.testing.assert_allclose(outputs["text/layers"][:, 1], ended["text"], rtol=1e-5, atol=1e-5)  # two programs


def test_wrong_depth_and_temperature_are_named():
    with pytest.raises(ValueError, match="one layer only"):
        sampled_layer(harness.ctx(), 1)
    assert problems(LayerAlignment("a", temperature=0.0)) == ["temperature: expected a number above 0, got 0.0"]
    assert SampledLayer(NESTED).reads == ("a/layers", "b/layers", "scale")
    assert jax.eval_shape(lambda: sampled_layer(harness.ctx(), 2)).dtype == jnp.int32
