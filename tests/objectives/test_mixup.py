"""Check the mixup terms: their losses, and one share per step from Beta(beta, beta)."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from jaxrep.batch import StepContext, normalize
from jaxrep.losses import mixup
from jaxrep.objectives.contrastive import MixedNegatives, MixedPairs
from jaxrep.spec import problems

B, D = 6, 4
RNG = np.random.default_rng(0)
OUTPUTS: dict[str, Any] = {name: RNG.normal(size=(B, D)).astype(np.float32) for name in ("image", "text")} | {
    "scale": np.float32(5)
}
TERM = MixedPairs("image", "text", mixed="a")


def ctx(step=0):
    return StepContext(step=np.int32(step), base_key=jax.random.key(0), total_steps=10)


def test_share_differs_between_steps_and_terms():
    draw = jax.jit(jax.vmap(lambda step: TERM.share(dataclasses.replace(ctx(), step=step), "pairs/a")))
    shares = np.asarray(draw(np.arange(4000)))
    assert shares[0] == TERM.share(ctx(), "pairs/a") != TERM.share(ctx(), "pairs/b")
    assert len(np.unique(shares)) > 3900
    # Beta(1/2, 1/2): mean 1/2 and variance 1/8, here within four standard errors.
    assert abs(shares.mean() - 0.5) < 4 * np.sqrt(1 / 8 / 4000)
    assert abs(shares.var() - 1 / 8) < 4 * np.sqrt(1 / 128 / 4000)


def test_terms_equal_losses_at_the_share_of_the_step():
    a, b = normalize(OUTPUTS["image"]), normalize(OUTPUTS["text"])
    for step in (0, 3):
        share = TERM.share(ctx(step), "pairs/a")
        expected = mixup.mixed_pairs(a, b, 5.0, share, mixed="a")
        np.testing.assert_allclose(TERM(OUTPUTS, {}, ctx(step))[0], expected, rtol=1e-6)
    for fixed, scale in ((0.0, 5.0), (2.0, 2.0)):
        term = MixedNegatives("image", "text", fixed_logit_scale=fixed)
        expected = mixup.mixed_negatives(a, b, scale, term.share(ctx(), "negatives"))
        np.testing.assert_allclose(term(OUTPUTS, {}, ctx())[0], expected, rtol=1e-6)


def test_problems_and_absent_rows_are_named():
    assert problems(dataclasses.replace(TERM, beta=0.0)) == ["beta: expected a number above 0, got 0.0"]
    with pytest.raises(ValueError, match="MixedPairs needs all rows of 'text', and the batch has 'text/present'"):
        TERM(OUTPUTS, {"text/present": jax.numpy.ones(B, bool)}, ctx())
