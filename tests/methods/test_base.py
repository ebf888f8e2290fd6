"""Methods are built from named parts with separate initial values, equal in every build; and the dual encoder."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrep.batch import Field
from jaxrep.encoders.base import EncoderInputs
from jaxrep.methods.base import Method, streams
from jaxrep.methods.dual_encoder.dual_encoder import DualEncoder
from jaxrep.methods.heads import Identity, Linear, LogitBias, LogitScale
from jaxrep.params import split
from jaxrep.spec import problems, spec
from tests.helpers import harness
from tests.helpers.harness import RECIPE, batch, tiny

FIELDS = {name: Field(leaf.shape[1:], str(leaf.dtype)) for name, leaf in batch().items()}
FIELDS["text"] = Field((6,), "int32", 16)
TOWERS = {"image": tiny.Patches(), "text": tiny.Ids()}
DUAL = DualEncoder(towers=TOWERS, dim=4)


def built(method: Method, fields=FIELDS):
    """Return (structure, arrays), always with the same seed."""
    return split(method.build(nnx.Rngs(7), inputs=fields))


def test_another_part_does_not_change_initial_values():
    _, few = built(DUAL)
    more = DualEncoder(towers={"sketch": tiny.Patches(), **TOWERS}, dim=4, bias=LogitBias())
    _, many = built(more, {"sketch": FIELDS["image"], **FIELDS})
    assert many.keys() - few.keys() == {"sketch/kernel", "sketch_head/kernel", "bias/value"}
    for path, value in few.items():
        np.testing.assert_array_equal(many[path], value, err_msg=path)


def test_towers_of_equal_specs_have_separate_parameters():
    twins = DualEncoder(towers={"image": tiny.Patches(), "sketch": tiny.Patches()}, dim=4)
    _, arrays = built(twins, {"sketch": FIELDS["image"], **FIELDS})
    assert arrays.keys() >= {"image/kernel", "sketch/kernel"}
    assert np.abs(arrays["image/kernel"] - arrays["sketch/kernel"]).min() > 0


@spec
class Siblings(Method):
    """One tower, called twice."""

    image: Any = tiny.Patches()

    def parts(self, inputs):
        return {"image": (self.image, inputs["image"])}

    def per_example(self, batch, ctx):
        return {name: self.image(EncoderInputs(batch[name], ctx=ctx.at(name))).pooled for name in ("image", "sketch")}


def test_part_called_twice_is_shared_and_sums_gradients():
    structure, arrays = built(Siblings())
    assert arrays.keys() == {"image/kernel"}
    pictures = {"image": batch()["image"], "sketch": batch(1)["image"]}

    def loss(arrays, *names):
        outputs = structure.merge(arrays).per_example(pictures, harness.ctx())
        return sum(jnp.sum(outputs[name]) for name in names)

    both, *each = (
        jax.grad(loss)(arrays, *names)["image/kernel"] for names in (("image", "sketch"), ("image",), ("sketch",))
    )
    # float32 rounding of sums of a few numbers.
    np.testing.assert_allclose(both, each[0] + each[1], rtol=1e-5, atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 1e-3


def test_shared_towers_encode_further_fields():
    inputs = {**FIELDS, "negative": FIELDS["text"]}
    structure, arrays = built(DUAL)
    more, same = built(dataclasses.replace(DUAL, shared_towers={"negative": "text"}), inputs)
    assert arrays.keys() == same.keys()
    given = {name: batch()[name] for name in ("image", "text")}
    other = batch(1)["text"]
    outputs = more.merge(same).per_example({**given, "negative": other}, harness.ctx())
    alone = structure.merge(arrays).per_example({**given, "text": other}, harness.ctx())
    np.testing.assert_array_equal(outputs["negative"], alone["text"])
    assert list(problems(dataclasses.replace(DUAL, shared_towers={"text": "image"})))
    assert list(problems(dataclasses.replace(DUAL, shared_towers={"negative": "txt"})))
    with pytest.raises(ValueError, match="tower 'text' reads the field 'negative', which the batch lacks"):
        built(dataclasses.replace(DUAL, shared_towers={"negative": "text"}))


def test_builds_of_equal_specs_have_equal_structures():
    traces = []

    @jax.jit(static_argnums=0)
    def scale(structure, arrays):
        traces.append(structure)
        return structure.merge(arrays).per_step({}, harness.ctx())["scale"]

    # New specs each time, equal ones.
    for seed in range(2):
        method = DualEncoder(towers={"image": tiny.Patches(), "text": tiny.Ids()}, dim=4)
        structure, arrays = split(method.build(nnx.Rngs(seed), inputs=FIELDS))
        assert float(scale(structure, arrays)) == pytest.approx(1 / 0.07, rel=1e-6)
    other, arrays = built(DualEncoder(towers={"image": tiny.Patches(dropout=0.5), "text": tiny.Ids()}, dim=4))
    scale(other, arrays)
    assert len(traces) == 2


def test_counts_of_random_keys_are_read_as_copies():
    """Asynchronous computation may read the count after its increment, and so draw other initial values."""
    rngs = streams(jax.random.key(0), "image")
    counts = []
    for _ in range(3):
        counts.append(rngs.default.count[...])
        rngs.params()
    np.testing.assert_array_equal(counts, [0, 1, 2])


def test_second_axis_of_texts_is_encoded_per_text():
    structure, arrays = built(DUAL)
    rng = np.random.default_rng(0)
    texts, valid = rng.integers(0, 16, (8, 3, 6), np.int32), rng.random((8, 3, 6)) < 0.7
    valid[..., 0] = True
    module = structure.merge(arrays)
    out = module.per_example({"text": texts, "text/valid": valid}, harness.ctx())["text"]
    assert out.shape == (8, 3, 4)
    for view in range(3):
        one = module.per_example({"text": texts[:, view], "text/valid": valid[:, view]}, harness.ctx())["text"]
        np.testing.assert_allclose(out[:, view], one, rtol=1e-6)


def test_views_of_an_image_draw_separately():
    structure, arrays = built(DualEncoder(towers={"image": tiny.Patches(dropout=0.5), "text": tiny.Ids()}, dim=4))
    images = np.repeat(batch()["image"][:, None], 2, axis=1)
    emit = jax.jit(lambda arrays: structure.merge(arrays).per_example({"image": images}, harness.ctx()))
    out = emit(arrays)
    assert out["image/tokens"].shape == (8, 2, 4, 6)
    differ = np.abs(out["image/tokens"][:, 0] - out["image/tokens"][:, 1]).max(axis=(1, 2))
    assert (differ > 0).all()


def test_views_of_an_image_have_separate_masks():
    structure, arrays = built(DUAL)
    images = np.stack([batch()["image"], batch(1)["image"]], axis=1)
    masked = np.random.default_rng(0).random((8, 2, 4)) < 0.5
    module = structure.merge(arrays)
    tokens = module.per_example({"image": images, "image/masked": masked}, harness.ctx())["image/tokens"]
    shown = module.per_example({"image": images}, harness.ctx())["image/tokens"]
    np.testing.assert_array_equal(tokens, np.where(masked[..., None], 0, shown))


def test_field_with_views_builds_equal_towers():
    _, arrays = built(DUAL, {**FIELDS, "text": Field((5, 6), "int32", 16)})
    np.testing.assert_array_equal(arrays["text/embedding"], built(DUAL)[1]["text/embedding"])


def test_only_towers_of_given_fields_are_called():
    structure, arrays = built(DUAL)
    out = structure.merge(arrays).per_example({"text": batch()["text"]}, harness.ctx())
    assert set(out) == {"text", "text/pooled"}


def test_tower_without_field_is_named():
    with pytest.raises(
        ValueError, match="tower 'sound' reads the field 'sound', which the batch lacks: there are: image"
    ):
        built(DualEncoder(towers={"sound": tiny.Ids(), **TOWERS}, dim=4))


def test_wrong_values_of_a_dual_encoder_are_named():
    assert problems(DualEncoder(towers={}, dim=4)) == [
        "a DualEncoder needs one tower at least, and two where no field of the batch is the other side"
    ]
    assert problems(DualEncoder(towers=TOWERS, dim=4, heads={"sound": Linear(features=4), "text": Identity()})) == [
        "heads.sound belongs to no tower; the towers are image, text",
        "tower 'text' ends 6 wide and the joint space is 4: change its head or dim",
    ]
    assert problems(LogitScale(init=200.0)) == [
        "0 < min <= init <= max must hold, got min 0.001, init 200.0, max 100.0"
    ]


def test_identity_head_and_fixed_scale_are_not_trainable():
    method = DualEncoder(towers=TOWERS, dim=6, heads={"text": Identity()}, scale=LogitScale(init=5.0, trainable=False))
    structure, arrays = built(method)
    assert arrays.keys() - structure.trainable == {"scale/log"}
    assert arrays.keys() == {"image/kernel", "image_head/kernel", "text/embedding", "scale/log"}
    module = structure.merge(arrays)
    assert float(module.per_step({}, harness.ctx())["scale"]) == pytest.approx(5.0, rel=1e-6)
    out = module.per_example({"text": batch()["text"]}, harness.ctx())
    np.testing.assert_array_equal(out["text"], module.text(EncoderInputs(batch()["text"])).pooled)


def test_recipe_of_these_tests_is_valid():
    assert problems(RECIPE) == []
