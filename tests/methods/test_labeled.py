"""Mixtures at three levels: their terms, and equality under microbatches."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrep.batch import Field
from jaxrep.methods.heads import Linear
from jaxrep.methods.labeled import MixupEncoder
from jaxrep.objectives.metric_learning import MetricLearning, MixedMetricLearning
from jaxrep.schedules import Constant
from jaxrep.views.fields import MixUp
from tests.helpers.harness import RECIPE, ctx, exact, tiny

TERMS = {
    "clean": MetricLearning("image", kind="contrastive"),
    "mixed": MixedMetricLearning("image", kind="contrastive", weight=Constant(value=0.4)),
}
PROXY = {
    "clean": MetricLearning("image", kind="proxy_anchor", proxies="proxies"),
    "mixed": MixedMetricLearning("image", kind="proxy_anchor", proxies="proxies"),
}


@pytest.mark.parametrize(("level", "proxies"), [("input", 0), ("feature", 0), ("embedding", 3)])
def test_gradients_are_equal_under_microbatches_and_devices(level, proxies):
    recipe = RECIPE.replace(
        method=MixupEncoder(image=tiny.Patches(dropout=0.2), head=Linear(features=4), level=level, proxies=proxies),
        objective=PROXY if proxies else TERMS,
        views=(MixUp("image"),) if level == "input" else (),
    )
    _, metrics, _ = exact(recipe, size=4, devices=2)
    assert metrics["loss/mixed"] != metrics["loss/clean"]


@pytest.mark.parametrize("proxies", [0, 4])
@pytest.mark.parametrize("name", ["clean", "mixed"])
def test_terms_equal_loops_over_anchors_and_items(name, proxies):
    """Rows and proxies as anchors; rows, and mixtures by how far they are of the anchor's class, as items."""
    random = np.random.default_rng(0)
    label = np.array([0, 0, 1, 1, 2, 0])  # of four classes: the last has no row
    partner = np.array([2, 3, 4, 5, 0, 1])
    share = random.random(6)
    x, mixed, table = (random.normal(size=(n, 4)) for n in (6, 6, 4))
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    anchors, classes = (unit(table), np.arange(4)) if proxies else (unit(x), label)
    items = unit(x if name == "clean" else mixed)
    pulls, pushes = np.zeros(len(anchors)), np.zeros(len(anchors))
    for i in range(len(anchors)):
        for j in range(6):
            parts = (j,) if name == "clean" else (j, partner[j])
            same = [label[part] == classes[i] for part in parts]
            if (not proxies and i in parts) or (name == "mixed" and sum(same) != 1):
                continue
            y = float(same[0]) if name == "clean" else share[j] if same[0] else 1 - share[j]
            s = anchors[i] @ items[j]
            if proxies:
                pulls[i] += y * np.exp(-32 * (s - 0.1))
                pushes[i] += (1 - y) * np.exp(32 * (s + 0.1))
            else:
                pulls[i] -= y * s
                pushes[i] += (1 - y) * max(s - 0.5, 0)
    of_proxies = np.log1p(pulls[pulls > 0]).mean() + np.log1p(pushes).mean()  # Kim et al. 2020, equation 4
    expected = of_proxies if proxies else (pulls + pushes).mean()
    outputs = {"image": x, "proxies": table, "mixed": mixed, "mixed/share": share}
    outputs = {key: jnp.asarray(value, jnp.float32) for key, value in outputs.items()}
    outputs["mixed/partner"] = jnp.asarray(partner, jnp.int32)
    found, _ = (PROXY if proxies else TERMS)[name](outputs, {"label": jnp.asarray(label)}, ctx())
    np.testing.assert_allclose(found, expected, rtol=1e-5)  # float32


def test_mixing_inputs_needs_the_view():
    inputs = {"image": Field((8, 8, 3), "uint8")}
    with pytest.raises(ValueError, match="after the view MixUp, reads the field 'mixed', which the batch"):
        MixupEncoder(image=tiny.Patches(), level="input").parts(inputs)
