"""The term of predicted places against NumPy in float64, and on which encoders it is refused."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep import encoders, methods
from jaxrep.objectives import Matryoshka, PatchPosition
from tests.helpers.harness import ctx

B, N = 3, 5
LOGITS = np.random.default_rng(0).normal(size=(B, N, N)).astype(np.float32)
BATCH: Any = {"position": np.zeros((B, 2), np.uint32)}


def outputs(logits: Any) -> Any:
    return {"places": logits}


def mean_cross_entropy(logits):
    logits = logits.astype(np.float64)
    total = [np.log(np.exp(logits[b, n]).sum()) - logits[b, n, n] for b in range(B) for n in range(N)]
    return np.mean(total)


def test_value_and_gradient_are_those_of_the_mean_over_tokens():
    term = PatchPosition("places")
    value, gradient = jax.value_and_grad(lambda x: term(outputs(x), BATCH, ctx())[0])(LOGITS)
    np.testing.assert_allclose(value, mean_cross_entropy(LOGITS), rtol=1e-6)
    probabilities = np.exp(np.float64(LOGITS))
    probabilities /= probabilities.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(gradient, (probabilities - np.eye(N)) / (B * N), atol=1e-7)


def test_accuracy_is_the_share_of_places_found():
    order = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [4, 3, 2, 1, 0]])
    places: Any = np.eye(N, dtype=np.float32)[order]
    loss, metrics = PatchPosition("places")(outputs(places), BATCH, ctx())
    assert metrics["accuracy"] == pytest.approx((5 + 3 + 1) / 15)
    assert loss == pytest.approx(float(mean_cross_entropy(places)), rel=1e-6)


def test_logits_of_another_number_of_places_are_refused():
    with pytest.raises(ValueError, match=r"logits of places have shape \(3, 5, 4\), where \[B,N,N\] is expected"):
        PatchPosition("places")(outputs(LOGITS[:, :, :4]), BATCH, ctx())


VIT = encoders.ViT(width=8, depth=1, heads=2, positions="none", stem=encoders.PatchStem(patch=4))
SERIES = encoders.SeriesTransformer(length=6, width=8, depth=1, heads=2, positions="none", kernel=1)


@pytest.mark.parametrize(
    ("encoder", "refused"),
    [
        (VIT, False),
        (SERIES, False),
        (replace(VIT, positions="sincos"), True),
        (replace(VIT, positions="relative"), True),
        (replace(VIT, rotary=encoders.AxialRotary()), True),
        (replace(VIT, local=encoders.LocalAttention()), True),
        (replace(VIT, stem=encoders.ConvStem()), True),
        (replace(SERIES, kernel=3), True),
        (replace(SERIES, positions="sines"), True),
        (encoders.TextTransformer(width=8, depth=1, heads=2), True),
        (encoders.ResNet(depths=(1,), width=4), True),
    ],
)
def test_encoders_that_know_places_are_refused(encoder, refused):
    term, method = PatchPosition("places"), methods.SingleEncoder(encoder=encoder)
    for reader in (term, Matryoshka(term, (2,))):
        sentences = list(reader.method_problems(method))
        assert len(sentences) == refused
        assert all(sentence.startswith("method.encoder tells its tokens where they lie") for sentence in sentences)
