"""Gradients by microbatch are the gradients of the whole batch: same loss, same metrics, every leaf."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.encoders.base import EncoderInputs, EncoderOutput
from jaxrep.encoders.image.stem import PatchStem
from jaxrep.encoders.image.vit import ViT
from jaxrep.encoders.layers import normal
from jaxrep.errors import UsageError
from jaxrep.mesh import Mesh
from jaxrep.methods.base import Method
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import LogitBias, LogitScale
from jaxrep.objectives.base import SeparableTerm, Term
from jaxrep.objectives.contrastive import Contrastive, Sigmoid
from jaxrep.objectives.wrappers import Matryoshka
from jaxrep.params import split
from jaxrep.schedules import Schedule
from jaxrep.spec import spec
from jaxrep.views.base import View
from jaxrep.views.color import ColorJitter
from jaxrep.views.geometry import RandomHorizontalFlip
from tests.helpers import harness
from tests.helpers.harness import RECIPE, agree, batch, computed, drawn, tiny

VIEWS = (ColorJitter(brightness=0.3), RandomHorizontalFlip())


@spec
class Prototypes:
    """Vectors [K,D]."""

    def build(self, rngs, *, inputs):
        return _Prototypes(rngs, inputs)


class _Prototypes(nnx.Module):
    def __init__(self, rngs, shape):
        self.vectors = normal(rngs, shape, 1.0)


@spec
class Several(Method):
    """Two towers, prototypes that are shared, and an output of whole numbers."""

    image: Any = tiny.Patches(width=4, dropout=0.3)
    text: Any = tiny.Ids(width=4)
    prototypes: Prototypes = Prototypes()
    scale: LogitScale = LogitScale(init=3.0)
    bias: LogitBias = LogitBias(init=-1.0)

    def parts(self, inputs):
        towers = {"image": (self.image, inputs["image"]), "text": (self.text, inputs["text"])}
        return towers | {
            "prototypes": (self.prototypes, (3, 4)),
            "scale": (self.scale, None),
            "bias": (self.bias, None),
        }

    def per_example(self, batch, ctx):
        image = self.image(EncoderInputs(batch["image"], ctx=ctx.at("image")))
        text = self.text(EncoderInputs(batch["text"], valid=batch["text/valid"], ctx=ctx.at("text")))
        codes = jnp.argmax(image.pooled, -1)
        return {"image": image.pooled, "text": text.pooled, "image/tokens": image.tokens, "codes": codes}

    def per_step(self, tables, ctx):
        vectors = self.prototypes.vectors[...]
        return {"scale": self.scale(), "bias": self.bias(), "classes": vectors, "class_id": jnp.arange(3)}


@spec
class Joined(Several):
    """Centers the images on the mean of the whole batch and mixes rows by a draw."""

    def across_batch(self, outputs, batch, ctx):
        order = jax.random.permutation(ctx.key("mix"), len(batch["position"]))
        centerd = outputs["image"] - outputs["image"].mean(0)
        mixed = 0.7 * centerd + 0.3 * centerd[order]
        return {"mixed": jnp.where(outputs["codes"][:, None] > 0, mixed, outputs["scale"] * centerd)}


@spec
class Classify(SeparableTerm):
    """Cross-entropy against the prototypes; rows of label 0 do not count."""

    reads: ClassVar[tuple[str, ...]] = ("image", "classes", "class_id", "scale")  # pyright: ignore
    needs: ClassVar[tuple[str, ...]] = ("label",)  # pyright: ignore
    embeddings: ClassVar[tuple[str, ...]] = ("image", "classes")  # pyright: ignore

    def per_example(self, outputs, batch, ctx):
        logits = outputs["scale"] * outputs["image"] @ outputs["classes"].T
        right = outputs["class_id"] == batch["label"][:, None]
        return -jnp.sum(jax.nn.log_softmax(logits), axis=1, where=right)

    def example_weights(self, batch):
        return (batch["label"] > 0).astype(jnp.float32) * (1 + batch["image_id"])


@spec
class Apart(Term):
    """Keeps the shared prototypes orthogonal; reads nothing of a row."""

    reads: ClassVar[tuple[str, ...]] = ("classes", "scale")  # pyright: ignore

    def __call__(self, outputs, batch, ctx):
        gram = outputs["classes"] @ outputs["classes"].T
        loss = jnp.sum((gram - jnp.eye(3)) ** 2) / outputs["scale"]
        return loss, {"largest": jnp.max(jnp.abs(gram))}


@spec
class Only(Schedule):
    """1 at some steps, 0 at the others: the steps are cases, and one compilation serves them all."""

    at: tuple[int, ...]

    def __call__(self, ctx):
        return jnp.isin(ctx.step, jnp.array(self.at)).astype(jnp.float32)


PAIR = ("image", "text")
CASES = ("plain", "masked", "smoothed", "sigmoid", "matryoshka", "separable", "separable matryoshka", "shared", "mixed")
OBJECTIVE = {
    "plain": Contrastive(*PAIR, weight=Only(at=(0, 8))),
    "masked": Contrastive(*PAIR, duplicates="ignore", ids=("text_id",), weight=Only(at=(1,))),
    "smoothed": Contrastive(*PAIR, label_smoothing=0.1, weight=Only(at=(2,))),
    "sigmoid": Sigmoid(*PAIR, weight=Only(at=(3, 8))),
    "matryoshka": Matryoshka(Contrastive(*PAIR), (2, 4), (1.0, 0.5), weight=Only(at=(4,))),
    "separable": Classify(weight=Only(at=(5, 8))),
    "separable matryoshka": Matryoshka(Classify(), (2, 3), weight=Only(at=(6,))),
    "shared": Apart(weight=Only(at=(7, 8))),
}
MANY = RECIPE.replace(method=Several(), objective=OBJECTIVE, views=VIEWS)
SCALE = "scale/log"


@pytest.fixture(scope="module")
def many():
    both, params = computed(MANY, (0, 2, 4))

    def found(case, rows=None):
        return jax.device_get(both(params, rows or batch(), harness.ctx(CASES.index(case))))

    return found


@pytest.mark.parametrize("size", (2, 4))
@pytest.mark.parametrize("case", CASES)
def test_an_objective_has_the_same_gradients_by_microbatch(many, case, size):
    found = many(case)
    agree(found, size)
    gradients = found[0][2]
    assert set(found[0][1]) >= {f"loss/{name}" for name in OBJECTIVE}
    # What the case is about takes part: all of the towers, or the prototypes alone.
    moved = {path for path, leaf in gradients.items() if np.abs(leaf).max() > 1e-4}
    prototypes = {"prototypes/vectors"} if case in ("separable", "separable matryoshka", "shared", "mixed") else set()
    images = set() if case == "shared" else {"image/kernel"}
    texts = set() if case in ("separable", "separable matryoshka", "shared") else {"text/embedding"}
    biases = {"bias/value"} if case in ("sigmoid", "mixed") else set()
    assert moved == {SCALE} | prototypes | images | texts | biases


def test_the_gradient_of_what_is_shared_is_counted_once(many):
    """Of the last term it is known: d loss / d log scale = -loss, however many microbatches there are."""
    for size, (_, metrics, gradients) in many("shared").items():
        np.testing.assert_allclose(gradients[SCALE], -metrics["loss/shared"], rtol=1e-5, err_msg=str(size))


def test_the_draws_above_do_something(many):
    """The same rows at other positions are dropped, flipped and colored otherwise."""
    later = many("plain", {**batch(), "position": batch()["position"] + 8})
    assert abs(later[0][0] - many("plain")[0][0]) > 1e-3


def test_separable_terms_alone():
    both, params = computed(MANY.replace(objective={"only": Classify()}), (0, 2))
    agree(jax.device_get(both(params, batch(), harness.ctx())), 2)


def test_a_join_of_the_whole_batch():
    recipe = MANY.replace(method=Joined(), objective={"mixed": Contrastive("mixed", "text"), "also": Classify()})
    both, params = computed(recipe, (0, 4))
    agree(jax.device_get(both(params, batch(), harness.ctx())), 4)


def test_a_transformer_with_dropout_and_patch_dropout():
    stem = PatchStem(patch=4)
    vit = ViT(width=8, depth=2, heads=2, mlp_ratio=1.0, dropout=0.2, patch_dropout=0.5, stem=stem)
    method = DualEncoder(towers={"image": vit, "text": tiny.Ids()}, dim=4)
    both, params = computed(RECIPE.replace(method=method, views=VIEWS), (0, 2))
    agree(jax.device_get(both(jax.tree.map(lambda x: 0.3 * x, params), batch(), harness.ctx())), 2)


def test_two_devices_have_the_gradients_of_one(many):
    """Rows over two devices, parameters on both; a microbatch is made of every device's own rows."""
    terms = {name: OBJECTIVE[name] for name in ("plain", "sigmoid", "separable", "shared")}
    both, params = computed(MANY.replace(objective=terms), (4,))
    mesh = Mesh(data=2).build(jax.devices()[:2])
    rows, whole = jax.NamedSharding(mesh, jax.P(("data", "fsdp"))), jax.NamedSharding(mesh, jax.P())
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, whole), jax.device_put(batch(), rows)
        found = jax.device_get(both(*placed, harness.ctx(CASES.index("mixed"))))
    loss, metrics, gradients = many("mixed")[0]
    agree({0: (loss, {name: metrics[name] for name in found[4][1]}, gradients), **found}, 4)


@spec
class Marked(View):
    """Cuts the middle out, and draws which images are there: a field that the loss reads."""

    def __call__(self, batch, ctx):
        here = jax.vmap(jax.random.bernoulli)(ctx.keys("here"))
        return {**batch, "image/present": here, "image": batch["image"][:, 2:6, 2:6]}


def test_a_term_sees_the_fields_that_views_have_added_and_the_shapes_that_they_have_changed():
    recipe = RECIPE.replace(views=(Marked(),))
    both, params = computed(recipe, (0, 2))
    agree(jax.device_get(both(params, batch(), harness.ctx())), 2)


@spec
class Normed(tiny.Patches):
    """Keeps a running mean of its features, from the statistics of the batch."""

    def build(self, rngs, *, inputs):
        return _Normed(self, rngs, inputs)


class _Normed(tiny.PatchesModule):
    def __init__(self, spec, rngs, inputs):
        super().__init__(spec, rngs, inputs)
        self.mean = nnx.BatchStat(jnp.zeros(spec.width))

    def __call__(self, inputs):
        pooled = super().__call__(inputs).pooled
        new = nnx.State({"mean": nnx.BatchStat(0.9 * self.mean[...] + 0.1 * pooled.mean(0))})
        return EncoderOutput(pooled=pooled - pooled.mean(0), batch_stats=new)


def test_statistics_of_a_batch_inside_an_encoder_come_back_and_are_refused_under_microbatches():
    towers = {"image": Normed(), "text": tiny.Ids()}
    recipe = RECIPE.replace(method=DualEncoder(towers=towers, dim=4))
    traced = harness.traced(recipe)
    assert traced.batch_stats == ("image/mean",)
    values = drawn(traced.arrays)
    params = {path: values[path] for path in traced.trained(traced.updater(recipe))}
    non_trainable = {"image/mean": values["image/mean"]}
    step = jax.jit(
        lambda params: traced.computation.value_and_grad(params, non_trainable, batch(), harness.ctx())[0][3]
    )
    pooled = harness.traced(RECIPE).structure.merge(params).image(EncoderInputs(batch()["image"])).pooled
    np.testing.assert_allclose(
        step(params)["image/mean"], 0.9 * values["image/mean"] + 0.1 * pooled.mean(0), rtol=1e-5, atol=1e-6
    )
    sentence = "microbatch_size=4: 'image/mean' is a statistic over the batch inside an encoder"
    with pytest.raises(UsageError, match=sentence):
        harness.traced(recipe.replace(microbatch_size=4))


def test_paths_of_a_split_module_keep_to_their_arrays():
    """Lists count in numbers, so that their tenth entry does not come before the second."""
    module = nnx.Module()
    module.layers = nnx.List([nnx.Param(jnp.full((), i)) for i in range(12)])
    module.table = nnx.Dict(b=nnx.Param(jnp.full((), 20)), a=nnx.BatchStat(jnp.full((), 10)))
    structure, arrays = split(module)
    assert {path: int(value) for path, value in arrays.items()} == {
        **{f"layers/{i}": i for i in range(12)},
        "table/a": 10,
        "table/b": 20,
    }
    assert structure.trainable == arrays.keys() - {"table/a"}
    merged = structure.merge({path: value + 1 for path, value in arrays.items()})
    assert [int(layer[...]) for layer in merged.layers] == list(range(1, 13))
    assert int(merged.table["b"][...]) == 21
