"""Terms on geometry read raw embeddings by name, normalize them, and leave out what the batch says."""

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


def test_uniformity_of_one_embedding_and_across_two():
    pairs = [(i, j) for i in range(B) for j in range(B) if i != j]
    np.testing.assert_allclose(value(Uniformity("text"), {}), potential("text", "text", pairs), rtol=1e-5)
    apart = [(i, j) for i, j in pairs if BATCH["text_id"][i] != BATCH["text_id"][j] and BATCH["text/present"][j]]
    term = Uniformity("image", "text", ids=("text_id",))
    np.testing.assert_allclose(value(term, BATCH), potential("image", "text", apart), rtol=1e-5)
    assert (term.reads, term.needs, term.embeddings) == (("image", "text"), ("text_id",), ("image", "text"))


def test_alignment_is_that_of_unit_rows_that_exist():
    each = ((unit("image") - unit("text")) ** 2).sum(1)
    np.testing.assert_allclose(value(Alignment("image", "text"), {}), each.mean(), rtol=1e-5)
    here = BATCH["text/present"]
    np.testing.assert_allclose(value(Alignment("image", "text"), BATCH), each[here].mean(), rtol=1e-5)
