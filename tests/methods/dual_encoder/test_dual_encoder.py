"""A dual encoder that groups the tokens of images by their captions; and terms that see the whole batch are exact under
microbatches on a mesh."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxrep.batch import INFERENCE, Field, StepContext, normalize
from jaxrep.losses.token_grouping import group_tokens
from jaxrep.mesh import ROWS, Mesh
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder, TokenGrouping
from jaxrep.methods.heads import LogitScale
from jaxrep.objectives.contrastive import Contrastive, MixedNegatives, MixedPairs
from jaxrep.objectives.geometry import Alignment, Uniformity
from jaxrep.objectives.wrappers import AllViews, EachView, PrimaryComponents
from jaxrep.spec import problems
from jaxrep.step import grad_cache
from jaxrep.step.shapes import trace_shapes
from jaxrep.step.train_step import kept_outputs
from tests.helpers import harness
from tests.helpers.harness import QUICK, RECIPE, tiny

B, V, L = 16, 3, 5
METHOD = DualEncoder(
    towers={"image": tiny.Patches(), "text": tiny.Ids()},
    dim=4,
    shared_towers={"captions": "text"},
    scale=LogitScale(init=5.0),
    grouping=TokenGrouping(by="captions", threshold=0.1),
)
RNG = np.random.default_rng(0)
BATCH: dict[str, Any] = {
    "image": RNG.integers(0, 256, (B, 8, 8, 3), dtype=np.uint8),
    "text": RNG.integers(1, 8, (B, L), dtype=np.int32),
    "captions": RNG.integers(1, 8, (B, V, L), dtype=np.int32),
    "position": np.stack([np.zeros(B), np.arange(B)], 1).astype(np.uint32),
}
FIELDS = {name: Field(x.shape[1:], str(x.dtype), classes=8) for name, x in BATCH.items()}
OBJECTIVE = {
    "alignment": Alignment("image", "text"),
    "uniformity": Uniformity("image"),
    "across": Uniformity("image", "text"),
    "negatives": MixedNegatives("image", "text"),
    "pairs": MixedPairs("image", "text", mixed="both"),
    "components": PrimaryComponents(Contrastive("image", "text"), count=2),
    "each": EachView(Contrastive("image", "captions"), field="captions"),
    "all": AllViews(Contrastive("image/grouped", "captions")),
}


def test_captions_group_the_projected_tokens_of_their_image():
    module: Any = METHOD.build(nnx.Rngs(0), inputs=FIELDS)
    found = module.per_example(BATCH, INFERENCE)
    local = normalize(found["image/tokens"] @ module.grouping.project.kernel[...])
    expected = group_tokens(local, normalize(found["captions"]), 0.1)
    np.testing.assert_allclose(found["image/grouped"], expected, atol=1e-6)
    assert found["image/grouped"].shape == (B, V, 4)
    assert "image/grouped" not in module.per_example({"image": BATCH["image"]}, INFERENCE)


def computed(devices, size):
    """Loss and gradients of all terms, with the rows over ``devices``, in microbatches of ``size``."""
    recipe = RECIPE.replace({"data.batch_size": B}, method=METHOD, objective=OBJECTIVE)
    traced = trace_shapes(recipe, FIELDS)
    mesh, keep = Mesh(data=devices).build(jax.devices()[:devices]), kept_outputs(recipe)
    params = harness.drawn(traced.arrays) | {"scale/log": np.float32(np.log(5))}

    @functools.partial(jax.jit, compiler_options=QUICK)
    def step(params, batch):
        ctx = StepContext(
            step=np.int32(3), base_key=jax.random.key(0), positions=batch["position"], total_steps=9, batch_size=B
        )
        if size == B:
            found, gradients = traced.computation.value_and_grad(params, {}, batch, ctx)
        else:
            found, gradients = grad_cache.value_and_grad(
                traced.computation, params, {}, batch, ctx, size=size, keep=keep
            )
        return found[0], gradients

    with jax.set_mesh(mesh):
        return step(params, jax.device_put(BATCH, jax.NamedSharding(mesh, ROWS)))


def test_terms_are_exact_under_microbatches_on_a_mesh():
    loss, gradients = computed(1, B)
    again, others = computed(2, 4)
    np.testing.assert_allclose(again, loss, rtol=1e-5)
    assert gradients.keys() == others.keys() >= {"grouping/project/kernel"}
    for path, gradient in gradients.items():
        assert np.any(gradient), path
        # Other orders of float32 sums of 16 and of 48 rows, whose terms cancel in part.
        np.testing.assert_allclose(others[path], gradient, atol=1e-4 * np.abs(gradient).max(), err_msg=path)


def test_wrong_names_are_named():
    names = TokenGrouping(tokens="sound", by="caption")
    assert problems(DualEncoder(towers=METHOD.towers, dim=4, grouping=names)) == [
        "grouping names 'sound', expected one of image, text",
        "grouping names 'caption', expected one of image, text",
    ]
