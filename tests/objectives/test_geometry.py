"""Check terms of alignment and uniformity on raw embeddings, with ids and absent rows."""

from typing import Any

import jax
import numpy as np

from jaxrep.batch import StepContext
from jaxrep.objectives.geometry import Alignment, Uniformity

B, D = 6, 4
RNG = np.random.default_rng(0)
OUTPUTS: dict[str, Any] = {name: RNG.normal(size=(B, D)).astype(np.float32) for name in ("image", "text")}
BATCH: dict[str, Any] = {"text_id": np.array([0, 1, 0, 2, 3, 4], np.int32), "text/present": np.arange(B) != 3}


def unit(name):
    x = np.float64(OUTPUTS[name])
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def value(term, batch):
    return jax.jit(lambda outputs, batch: term(outputs, batch, StepContext())[0])(OUTPUTS, batch)


def potential(a, b, pairs):
    return np.log(np.mean([np.exp(-2 * ((unit(a)[i] - unit(b)[j]) ** 2).sum()) for i, j in pairs]))


def test_uniformity_equals_definition():
    pairs = [(i, j) for i in range(B) for j in range(B) if i != j]
    np.testing.assert_allclose(value(Uniformity("text"), {}), potential("text", "text", pairs), rtol=1e-5)
    included = [(i, j) for i, j in pairs if BATCH["text_id"][i] != BATCH["text_id"][j] and BATCH["text/present"][j]]
    term = Uniformity("image", "text", ids=("text_id",))
    np.testing.assert_allclose(value(term, BATCH), potential("image", "text", included), rtol=1e-5)


def test_alignment_equals_definition_over_present_rows():
    distances = ((unit("image") - unit("text")) ** 2).sum(1)
    np.testing.assert_allclose(value(Alignment("image", "text"), {}), distances.mean(), rtol=1e-5)
    present = BATCH["text/present"]
    np.testing.assert_allclose(value(Alignment("image", "text"), BATCH), distances[present].mean(), rtol=1e-5)
