"""Check the contrastive term on reconstructions from principal components."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext, normalize
from jaxrep.losses.contrastive import info_nce
from jaxrep.losses.pca import reconstruct_from_pca
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.wrappers import PrimaryComponents
from jaxrep.spec import problems

RNG = np.random.default_rng(0)
OUTPUTS: dict[str, Any] = {name: RNG.normal(size=(6, 4)).astype(np.float32) for name in ("image", "short")} | {
    "scale": np.float32(5)
}
TERM = PrimaryComponents(Contrastive("image", "short", label_smoothing=0.1), count=2)


def test_reconstruction_is_not_normalized():
    a, b = normalize(OUTPUTS["image"]), normalize(OUTPUTS["short"])
    expected = info_nce(reconstruct_from_pca(a, 2), b, 5.0, label_smoothing=0.1)
    loss = jax.jit(lambda outputs: TERM(outputs, {}, StepContext())[0])(OUTPUTS)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.abs(np.linalg.norm(reconstruct_from_pca(a, 2), axis=1) - 1).max() > 0.01


def test_problems_and_absent_rows_are_named():
    assert problems(PrimaryComponents(TERM.term, count=0)) == ["count: expected a number of at least 1, got 0"]
    with pytest.raises(ValueError, match="PrimaryComponents needs all rows of 'image'"):
        TERM(OUTPUTS, {"image/present": jax.numpy.ones(6, bool)}, StepContext())
