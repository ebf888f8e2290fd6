"""Masked modeling: what the encoder reads, what reaches a prediction, the work that is saved, and wrong wiring."""

import functools
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxrep import encoders, methods
from jaxrep.batch import INFERENCE, Field, StepContext
from jaxrep.params import Structure, split
from jaxrep.spec import problems
from tests.helpers.harness import QUICK

B, SIDE, PATCH, N = 2, 16, 4, 16
SMALL: dict[str, Any] = dict(width=8, depth=2, heads=2)
VIT = encoders.ViT(**SMALL, stem=encoders.PatchStem(patch=PATCH))
DECODER = encoders.TokenDecoder(**SMALL)
METHODS = {
    "shown": methods.Masked(encoder=VIT, decoder=DECODER, reads="shown", targets={"pixels": 48}),
    "all": methods.Masked(encoder=replace(VIT, mask_token=True), reads="all", targets={"pixels": 48}),
    "context": methods.Masked(encoder=VIT, reads="context", targets={"pixels": 48}, predicts="all"),
}
RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((B, SIDE, SIDE, 3), np.float32)
MASKED = np.array([RANDOM.permutation(np.arange(N) < 12) for _ in range(B)])
FIELDS = {
    "image": IMAGE,
    "image/masked": MASKED,
    "image/masked_index": np.array([np.flatnonzero(row) for row in MASKED], np.int32),
    "image/shown_index": np.array([np.flatnonzero(~row) for row in MASKED], np.int32),
}


@functools.cache
def built(name: str) -> tuple[Structure, dict[str, Any]]:
    """Return the structure, and arrays that are drawn without compiling the initializers."""
    structure, shapes = split(nnx.eval_shape(lambda: build(METHODS[name])))
    rng = np.random.default_rng(1)
    return structure, {path: 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype) for path, leaf in shapes.items()}


def build(method: methods.Masked, fields: Any = FIELDS) -> Any:
    inputs = {name: Field(x.shape[1:], str(x.dtype)) for name, x in fields.items()}
    return method.build(nnx.Rngs(0), inputs=inputs)


@functools.cache
def compiled(name: str, function: Any) -> Any:
    """Return ``function(module, batch)`` compiled for a module and batches with all fields."""
    structure, arrays = built(name)
    call = jax.jit(lambda arrays, batch: function(structure.merge(arrays), batch), compiler_options=QUICK)
    return functools.partial(call, arrays)


def outputs(module: Any, batch: Any) -> Any:
    return module.per_example(batch, StepContext())


def predicted(name: str, image: np.ndarray) -> np.ndarray:
    return np.asarray(compiled(name, outputs)({**FIELDS, "image": image})["pixels"])


def changed(place: int) -> np.ndarray:
    """Return the images with another patch at a place of the first one."""
    image, row, column = IMAGE.copy(), place // 4 * PATCH, place % 4 * PATCH
    image[0, row : row + PATCH, column : column + PATCH] += 1
    return image


@pytest.mark.parametrize("name", ["shown", "all"])
def test_predictions_know_what_is_shown_and_nothing_that_is_hidden(name):
    before = predicted(name, IMAGE)
    hidden, shown = FIELDS["image/masked_index"][0], FIELDS["image/shown_index"][0]
    assert before.shape == (B, 12, 48)
    for place in hidden[:3]:
        np.testing.assert_array_equal(predicted(name, changed(place)), before)
    for place in shown[:2]:
        assert (np.abs(predicted(name, changed(place))[0] - before[0]).max(axis=1) > 1e-6).all()


def test_tokens_outside_of_a_context_are_seen_by_nobody_but_themselves():
    before = predicted("context", IMAGE)
    assert before.shape == (B, N, 48)
    place = FIELDS["image/masked_index"][0, 3]
    differs = np.abs(predicted("context", changed(place)) - before).max(axis=2) > 0
    assert differs[0].tolist() == [other == place for other in range(N)] and not differs[1].any()
    place = FIELDS["image/shown_index"][0, 1]
    assert (np.abs(predicted("context", changed(place)) - before).max(axis=2)[0] > 1e-6).all()


@pytest.mark.parametrize("name", METHODS)
def test_without_a_mask_the_whole_field_is_encoded(name):
    out = compiled(name, lambda module, batch: module.per_example(batch, INFERENCE))({"image": IMAGE})
    encoded = compiled(name, lambda module, batch: module.image(encoders.EncoderInputs(batch["image"])))
    assert out.keys() == {"image", "image/pooled", "image/tokens"}
    np.testing.assert_allclose(out["image"], encoded({"image": IMAGE}).pooled, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out["image/tokens"], encoded({"image": IMAGE}).tokens, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("positions", ["learned", "relative"])
def test_an_encoder_that_keeps_all_tokens_gives_what_it_gives_without(positions):
    spec = replace(VIT, positions=positions, registers=1)
    structure, arrays = split(spec.build(nnx.Rngs(0), inputs=Field((SIDE, SIDE, 3), "float32")))
    every = np.tile(np.arange(N, dtype=np.int32), (B, 1))
    call = jax.jit(lambda arrays, inputs: structure.merge(arrays)(inputs), compiler_options=QUICK)
    with_keep = call(arrays, encoders.EncoderInputs(IMAGE, keep=every))
    without = call(arrays, encoders.EncoderInputs(IMAGE))
    np.testing.assert_allclose(with_keep.tokens, without.tokens, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(with_keep.pooled, without.pooled, rtol=1e-5, atol=1e-6)


def test_one_linear_map_at_each_place_is_the_prediction_without_a_decoder():
    def encode(module: Any, batch: Any) -> Any:
        return module.image(encoders.EncoderInputs(batch["image"], masked=batch["image/masked"])).tokens

    arrays = built("all")[1]
    expected = np.asarray(compiled("all", encode)(FIELDS)) @ arrays["pixels_head/kernel"] + arrays["pixels_head/bias"]
    expected = np.take_along_axis(expected, FIELDS["image/masked_index"][..., None], axis=1)
    np.testing.assert_allclose(predicted("all", IMAGE), expected, rtol=1e-4, atol=1e-5)


def encoder_flops(reads: Any, depth: int) -> float:
    """Return the FLOPs of the compiled forward pass, with a small decoder."""
    vit = replace(VIT, width=64, heads=1, pool="mean", scan=False, depth=depth, mask_token=reads == "all")
    decoder = replace(DECODER, width=4, heads=1, depth=1)
    structure, arrays = split(
        nnx.eval_shape(lambda: build(methods.Masked(encoder=vit, decoder=decoder, reads=reads, targets={"pixels": 1})))
    )
    call = jax.jit(lambda arrays, batch: outputs(structure.merge(arrays), batch), compiler_options=QUICK)
    cost: Any = call.lower(arrays, FIELDS).compile().cost_analysis()
    return cost["flops"]


def test_hidden_tokens_cost_nothing_in_the_encoder():
    """With 12 of 16 tokens hidden, two more blocks multiply matrices of 4 rows, in place of 16."""
    of_all, of_shown = (encoder_flops(reads, 3) - encoder_flops(reads, 1) for reads in ("all", "shown"))
    products = 2 * 16 * B * 24 * 64**2  # in attention 4 matrices, in the MLP 8, each of multiplications and additions
    assert of_all == pytest.approx(products, rel=0.2)  # with attention's own products, norms and activations
    assert of_shown / of_all == pytest.approx(0.25, abs=0.02)  # attention's own products are fewer yet


def method(**fields: Any) -> methods.Masked:
    return methods.Masked(**{**dict(encoder=VIT, decoder=DECODER, reads="shown", targets={"pixels": 48}), **fields})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (dict(reads="all"), 'reads = "all" puts a mask token in place of hidden ones, and encoder has none'),
        (dict(decoder=None), "it needs a decoder"),
        (dict(decoder=replace(DECODER, mask_token=False)), "puts mask tokens before the decoder, which has none"),
        (dict(encoder=replace(VIT, patch_dropout=0.5)), "set patch_dropout = 0"),
        (dict(encoder=encoders.ResNet.resnet18()), "encoder"),
        (dict(targets={}), "targets needs one prediction at least"),
        (dict(targets={"image": 3}), "targets names 'image'"),
        (dict(targets={"a/b": 3}), "targets names 'a/b'"),
        (dict(name="decoder"), "name is 'decoder'"),
    ],
)
def test_wrong_wiring_is_one_sentence(fields, sentence):
    found = problems(method(**fields))
    assert len(found) == 1 and sentence in found[0]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "Masked, after a view such as RandomMask, reads the field 'image/masked', which the batch lacks"),
        (dict(FIELDS, image=IMAGE[:, None]), r"'image' has shape \(1, 16, 16, 3\) a row, and the encoder reads 3 axes"),
    ],
)
def test_fields_that_are_missing_or_of_another_shape_are_named(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(method(), {"image": IMAGE, **fields})


@pytest.mark.parametrize("name", METHODS)
def test_a_mask_of_other_patches_is_one_sentence(name):
    half = {**FIELDS, "image/masked": MASKED[:, :4], "image/shown_index": np.zeros((B, 1), np.int32)}
    with pytest.raises(
        ValueError, match=r"^image: .*4 tokens and the encoder (has 16|4 x 4): give both the same patch"
    ):
        jax.eval_shape(lambda arrays: outputs(built(name)[0].merge(arrays), half), built(name)[1])
