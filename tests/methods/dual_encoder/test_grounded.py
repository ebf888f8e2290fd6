"""Regions and queries: which are matched, what the local contrast is, and that microbatches change nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.optimize import linear_sum_assignment

from jaxrep.batch import INFERENCE, Batch, Field, StepContext
from jaxrep.encoders.decoders.query_decoder import QueryDecoder
from jaxrep.losses.boxes import giou
from jaxrep.methods.dual_encoder.grounded import GroundedDualEncoder
from jaxrep.objectives.contrastive import Contrastive
from jaxrep.objectives.separable import BoxLoss
from jaxrep.objectives.wrappers import AllViews
from jaxrep.schedules import Constant
from jaxrep.spec import spec
from jaxrep.views.base import View
from tests.helpers.harness import RECIPE, exact, tiny

B, R, Q, L = 8, 2, 3, 6
METHOD = GroundedDualEncoder(
    image=tiny.Patches(),
    text=tiny.Ids(),
    decoder=QueryDecoder(queries=Q, width=8, depth=2, heads=2, dropout=0.2),
    dim=4,
)
OBJECTIVE = {
    "captions": Contrastive("image", "text"),
    "regions": AllViews(Contrastive("matched", "region", direction="a_to_b")),
    "l1": BoxLoss("matched/boxes", kind="l1", weight=Constant(value=1.5)),
    "giou": BoxLoss("matched/boxes", kind="giou"),
}


@spec
class WithRegions(View):
    """Add zero to two regions to each row, by its label: texts like the row's, and boxes by its position."""

    def __call__(self, batch: Batch, ctx: StepContext) -> Batch:
        text = jnp.stack([batch["text"], batch["text"][:, ::-1]], axis=1)
        present = jnp.arange(R) < batch["label"][:, None]
        place = batch["position"][:, 1:, None].astype(jnp.float32) + jnp.arange(R)[:, None]
        boxes = 0.4 + 0.1 * jnp.sin(place + jnp.arange(4))
        return {
            **batch,
            "region": text,
            "region/valid": jnp.ones_like(text, bool),
            "region/present": present,
            "boxes": jnp.where(present[..., None], boxes, 0.0),
        }


@pytest.mark.slow
def test_gradients_are_equal_under_microbatches_and_devices():
    recipe = RECIPE.replace(method=METHOD, objective=OBJECTIVE, views=(WithRegions("image"),))
    _, metrics, gradients = exact(recipe, size=4, devices=2)
    assert all(metrics[f"loss/{name}"] > 0 for name in OBJECTIVE)
    still = [path for path, leaf in gradients.items() if not leaf.any() and not path.endswith("key/bias")]
    assert not still


def given() -> tuple[Any, dict[str, Any]]:
    random = np.random.default_rng(0)
    batch = {
        "image": random.integers(0, 256, (B, 8, 8, 3), dtype=np.uint8),
        "text": random.integers(1, 8, (B, L), dtype=np.int32),
        "region": random.integers(1, 8, (B, R, L), dtype=np.int32),
        "region/present": np.arange(R) < (np.arange(B) % 3)[:, None],
        "boxes": random.uniform(0.2, 0.6, (B, R, 4)).astype(np.float32),
    }
    fields = {name: Field(x.shape[1:], str(x.dtype), classes=8) for name, x in batch.items()}
    return METHOD.build(nnx.Rngs(0), inputs=fields), batch


@pytest.fixture(scope="module")
def found():
    module, batch = given()
    graph, state = nnx.split(module)
    outputs = jax.jit(lambda state, batch: nnx.merge(graph, state).per_example(batch, INFERENCE))(state, batch)
    return module, batch, jax.device_get(outputs)


def test_regions_are_matched_at_the_smallest_cost(found):
    _, batch, out = found
    pairs = out["query/boxes"][:, None], batch["boxes"][:, :, None]
    cost = 5 * np.abs(pairs[0] - pairs[1]).sum(-1) - 2 * np.asarray(jax.jit(giou)(*pairs))
    for i in range(B):
        count = batch["region/present"][i].sum()
        which = linear_sum_assignment(cost[i, :count])[1]
        np.testing.assert_array_equal(out["matched"][i, :count], out["query"][i, which])
        np.testing.assert_array_equal(out["matched/boxes"][i, :count], out["query/boxes"][i, which])


def test_local_contrastive_loss_equals_its_equation(found):
    """Equation of the local loss against NumPy in float64, in value and gradient."""
    _, batch, out = found
    present = batch["region/present"].reshape(-1)
    scale = 7.0

    def oracle(queries: np.ndarray) -> float:
        a, b = (x.reshape(B * R, -1).astype(np.float64)[present] for x in (queries, out["region"]))
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        logits = scale * a @ b.T
        return float(np.mean(np.log(np.exp(logits).sum(1)) - np.diagonal(logits)))

    fields = {"region/present": batch["region/present"]}
    rest = {"region": jnp.asarray(out["region"]), "scale": jnp.float32(scale)}
    loss = jax.jit(jax.value_and_grad(lambda x: OBJECTIVE["regions"]({**rest, "matched": x}, fields, INFERENCE)[0]))
    value, gradient = loss(out["matched"])
    np.testing.assert_allclose(value, oracle(out["matched"]), rtol=1e-5)  # float32
    ways = 1e-6 * np.eye(B * R * 4).reshape(-1, B, R, 4)
    slopes = [(oracle(out["matched"] + way) - oracle(out["matched"] - way)) / 2e-6 for way in ways]
    np.testing.assert_allclose(gradient.ravel(), slopes, rtol=1e-3, atol=1e-5)
    assert (np.asarray(gradient)[~batch["region/present"]] == 0).all()


def test_image_alone_and_text_alone_are_encoded(found):
    module, batch, out = found
    image = module.per_example({"image": batch["image"]}, INFERENCE)
    np.testing.assert_allclose(image["query"], out["query"], atol=1e-5)  # compiled, or step by step
    assert "matched" not in image and "text" not in image
    text = module.per_example({"text": batch["region"][:, 1]}, INFERENCE)
    np.testing.assert_allclose(text["text"], out["region"][:, 1], atol=1e-5)


def test_more_regions_than_queries_are_refused():
    fields = {"image": Field((8, 8, 3), "uint8"), "text": Field((L,), "int32", 8), "boxes": Field((4, 4), "float32")}
    with pytest.raises(ValueError, match="4 regions"):
        METHOD.build(nnx.Rngs(0), inputs=fields)
