"""Mixtures at three levels: what is mixed, with which labels, and that microbatches change nothing."""

import jax.numpy as jnp
import numpy as np
import pytest
from harness import RECIPE, exact, tick, tiny

from jaxrep.batch import Field
from jaxrep.methods.heads import Linear
from jaxrep.methods.mixing import Mixing
from jaxrep.schedules import Constant
from jaxrep.spec import problems
from jaxrep.terms.metric import Metric, MixedMetric
from jaxrep.views.mix import MixWithin

TERMS = {
    "clean": Metric("image", kind="contrastive"),
    "mixed": MixedMetric("image", kind="contrastive", weight=Constant(value=0.4)),
}
PROXY = {
    "clean": Metric("image", kind="proxy_anchor", proxies="proxies"),
    "mixed": MixedMetric("image", kind="proxy_anchor", proxies="proxies"),
}


@pytest.mark.parametrize(("level", "proxies"), [("input", 0), ("feature", 0), ("embedding", 3)])
def test_microbatches_and_devices_give_the_gradients_of_the_whole_batch(level, proxies):
    recipe = RECIPE.replace(
        method=Mixing(image=tiny.Patches(dropout=0.2), head=Linear(features=4), level=level, proxies=proxies),
        objective=PROXY if proxies else TERMS,
        views=(MixWithin("image"),) if level == "input" else (),
    )
    _, metrics, _ = exact(recipe, size=4, devices=2)
    assert metrics["loss/mixed"] != metrics["loss/clean"]


def test_mixtures_count_for_an_anchor_by_how_far_they_are_of_its_class():
    """Against a loop over anchors and mixtures."""
    random = np.random.default_rng(0)
    label = np.array([0, 0, 1, 1, 2, 0])
    partner = np.array([2, 3, 4, 5, 0, 1])
    share = random.random(6)
    x, mixed = (random.normal(size=(6, 4)) for _ in range(2))
    a, v = (y / np.linalg.norm(y, axis=1, keepdims=True) for y in (x, mixed))
    expected = np.zeros(6)
    for i in range(6):
        for j in range(6):
            parts = (j, partner[j])
            same = [label[part] == label[i] for part in parts]
            if i in parts or sum(same) != 1:
                continue
            y = share[j] if same[0] else 1 - share[j]
            s = a[i] @ v[j]
            expected[i] += -y * s + (1 - y) * max(s - 0.5, 0)
    outputs = {"image": x, "mixed": mixed, "mixed/partner": partner, "mixed/share": share}
    outputs = {
        name: jnp.asarray(value, jnp.int32 if "partner" in name else jnp.float32) for name, value in outputs.items()
    }
    found, _ = TERMS["mixed"](outputs, {"label": jnp.asarray(label)}, tick())
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)  # float32


def test_mixtures_of_inputs_ask_for_their_view():
    inputs = {"image": Field((8, 8, 3), "uint8")}
    with pytest.raises(ValueError, match="as the view MixWithin makes it, reads the field 'mixed', which the batch"):
        Mixing(image=tiny.Patches(), level="input").parts(inputs)
    assert problems(Mixing(image=tiny.Patches(), beta=-1.0)) == [
        "beta is the parameter of a Beta distribution: above 0, got -1.0"
    ]
