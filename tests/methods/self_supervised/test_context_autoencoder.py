"""The context autoencoder: its two terms against NumPy in float64, what leaks, what has gradients, and bad input."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.vision import cae
from jaxrep import encoders, methods, objectives
from jaxrep.batch import INFERENCE, Field, StepContext
from jaxrep.encoders.base import EncoderInputs
from jaxrep.objectives import evaluate
from jaxrep.params import split
from jaxrep.schedules import Constant
from jaxrep.spec import problems, replace
from jaxrep.views import BlockMask
from tests.helpers import harness
from tests.helpers.harness import QUICK

B, SIDE, PATCH, WIDTH = 3, 16, 4, 8
SIZE: Any = dict(width=WIDTH, depth=2, heads=2, mlp_ratio=1.0)
METHOD = methods.ContextAutoencoder(
    encoder=encoders.ViT(**SIZE, stem=encoders.PatchStem(patch=PATCH), positions="sincos", stochastic_depth=0.5),
    regressor=encoders.ContextRegressor(**SIZE, layer_scale=0.5, stochastic_depth=0.5),
    decoder=encoders.TokenDecoder(**SIZE, mask_token=False, project=False),
    targets={"pixels": PATCH * PATCH * 3},
)
OBJECTIVE = {
    "pixels": objectives.Reconstruction("pixels", patch=PATCH, patch_norm=True),
    "features": objectives.MeanSquare("image/regressed", "image/hidden", weight=Constant(value=2.0)),
}
POSITIONS = np.stack([np.zeros(B), np.arange(B)], axis=1).astype(np.uint32)
CTX = StepContext(step=np.int32(1), base_key=jax.random.key(0), positions=POSITIONS, total_steps=4, batch_size=B)
QUIET = dataclasses.replace(CTX, training=False)
IMAGES = np.random.default_rng(0).integers(0, 256, (B, SIDE, SIDE, 3), dtype=np.uint8)


def masked(images: Any = IMAGES) -> dict[str, Any]:
    """A batch with half of the patches hidden, in blocks."""
    mask = BlockMask("image", patch=PATCH, p=1.0, share=(0.5, 0.5), smallest=2, exact=True)
    return {**mask({"image": jnp.asarray(images)}, CTX), "position": POSITIONS}


BATCH = masked()
HIDDEN, SHOWN = (np.asarray(BATCH[f"image/{which}_index"]) for which in ("masked", "shown"))


@functools.cache
def built() -> tuple[Any, dict[str, Any]]:
    inputs = {name: Field(x.shape[1:], str(x.dtype)) for name, x in BATCH.items()}
    structure, shapes = split(nnx.eval_shape(lambda: METHOD.build(nnx.Rngs(0), inputs=inputs)))
    draw = np.random.default_rng(1)
    return structure, {path: (0.4 * draw.normal(size=x.shape)).astype(x.dtype) for path, x in shapes.items()}


@functools.cache
def compiled() -> Any:
    """(arrays, batch) -> outputs without draws."""
    structure = built()[0]
    return jax.jit(lambda arrays, batch: structure.merge(arrays).per_example(batch, QUIET), compiler_options=QUICK)


def outputs(batch: Any = BATCH) -> dict[str, np.ndarray]:
    return jax.device_get(compiled()(built()[1], batch))


def patches(images: Any) -> np.ndarray:
    """Patches [B,N,P] of images, row by row, float64."""
    cut = np.float64(images).reshape(B, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH, 3)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(B, -1, PATCH * PATCH * 3)


def test_both_terms_are_those_of_numpy():
    found = outputs()
    target = np.take_along_axis(patches(IMAGES / 255), HIDDEN[..., None], axis=1)
    target = (target - target.mean(-1, keepdims=True)) / np.sqrt(target.var(-1, ddof=1, keepdims=True) + 1e-6)
    pixels = ((found["pixels"] - target) ** 2).mean()
    features = ((np.float64(found["image/regressed"]) - found["image/hidden"]) ** 2).mean()
    loss, metrics = evaluate(OBJECTIVE, found, BATCH, CTX)
    np.testing.assert_allclose(metrics["loss/pixels"], pixels, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/features"], features, rtol=1e-5)
    np.testing.assert_allclose(loss, pixels + 2 * features, rtol=1e-5)


def test_outputs_are_those_of_the_parts_in_turn():
    structure, arrays = built()
    module, found = structure.merge(arrays), outputs()
    shown, hidden = (module.image(EncoderInputs(IMAGES, keep=index)).tokens for index in (SHOWN, HIDDEN))
    regressed = module.regressor(EncoderInputs(shown, keep=SHOWN, grid=(4, 4))).tokens
    # The decoder reads the regressed features alone, as tokens of the hidden places.
    decoded = module.decoder(EncoderInputs(regressed, keep=HIDDEN, grid=(4, 4))).tokens
    assert found["pixels"].shape == (B, 8, 48)
    for name, expected in {
        "image/hidden": hidden,
        "image/regressed": regressed,
        "pixels": module.pixels_head(decoded),
    }.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-4, err_msg=name)  # float32, compiled otherwise


def test_decoder_of_the_same_width_reads_features_as_they_are():
    structure, arrays = built()
    assert not [path for path in arrays if path.startswith(("decoder/project", "decoder/mask_token"))]
    decoder = structure.merge(arrays).decoder
    tokens = np.random.default_rng(2).normal(size=(B, 8, WIDTH)).astype(np.float32)
    alone = decoder(EncoderInputs(tokens, keep=HIDDEN, grid=(4, 4))).tokens
    order = np.random.default_rng(3).permutation(8)
    other = decoder(EncoderInputs(tokens[:, order], keep=HIDDEN[:, order], grid=(4, 4))).tokens
    np.testing.assert_allclose(other, alone[:, order], atol=1e-5)


def test_nothing_hidden_leaks_into_predictions():
    before = outputs()
    for index, leaks in ((HIDDEN, False), (SHOWN, True)):
        images = patches(IMAGES)
        for row in range(B):
            images[row, index[row, 1]] = 255 - images[row, index[row, 1]]
        changed = images.reshape(B, 4, 4, PATCH, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(IMAGES.shape)
        after = outputs({**BATCH, "image": changed.astype(np.uint8)})
        for name in ("pixels", "image/regressed", "image/pooled"):
            assert np.array_equal(after[name], before[name]) != leaks, name
        assert np.array_equal(after["image/hidden"], before["image/hidden"]) == leaks


def test_target_has_no_gradient_and_drops_nothing():
    structure, arrays = built()

    def of(name: str, ctx: Any) -> Any:
        return lambda arrays: jnp.sum(structure.merge(arrays).per_example(BATCH, ctx)[name] ** 2)

    gradients = jax.grad(of("image/hidden", CTX))(arrays)
    assert all(not np.any(gradient) for gradient in gradients.values())
    assert of("image/hidden", CTX)(arrays) == of("image/hidden", QUIET)(arrays)
    assert of("image/regressed", CTX)(arrays) != of("image/regressed", QUIET)(arrays)
    regressed = jax.grad(of("image/regressed", QUIET))(arrays)
    unmoved = {path.split("/")[0] for path, gradient in regressed.items() if not np.any(gradient)}
    assert unmoved <= {"decoder", "pixels_head", "image", "regressor"}
    assert np.any(regressed["image/stem/project/kernel"]) and np.any(regressed["regressor/query"])


def test_inference_reads_the_whole_image():
    structure, arrays = built()
    found = structure.merge(arrays).per_example({"image": IMAGES}, INFERENCE)
    assert found.keys() == {"image", "image/pooled", "image/tokens"} and found["image/tokens"].shape == (B, 16, WIDTH)
    everything = np.broadcast_to(np.arange(16, dtype=np.int32), (B, 16))
    kept = structure.merge(arrays).image(EncoderInputs(IMAGES, keep=everything))
    np.testing.assert_allclose(found["image/tokens"], kept.tokens, atol=1e-5)


def test_microbatches_equal_the_whole_batch():
    encoder = dataclasses.replace(cae.TINY, width=8, heads=2, stem=encoders.PatchStem(patch=2))
    recipe = harness.RECIPE.replace(
        data=dataclasses.replace(harness.RECIPE.data, texts=()),
        views=cae.hide(2, smallest=2),
        method=cae.autoencoder(encoder, 2, depth=2),
        objective=cae.objective(encoder, 2),
    )
    harness.exact(recipe, size=4, devices=1, spread=0.3, rounding=2e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "decoder"}, "name is 'decoder': expected the name of a field"),
        ({"targets": {}}, "targets needs one prediction at least"),
        ({"targets": {"image": 3}}, "targets names 'image'"),
        ({"encoder.stem": encoders.ConvStem()}, "encoder has tokens that overlap"),
        ({"encoder.patch_dropout": 0.5}, "set patch_dropout = 0"),
        ({"decoder.mask_token": True}, "set its mask_token = False"),
        ({"regressor.width": 4}, "regressor is 4 wide and the encoder, whose features it regresses, 8"),
    ],
)
def test_bad_values_are_one_sentence(changes, sentence):
    found = problems(replace(METHOD, changes))
    assert len(found) == 1 and sentence in found[0]


def test_bad_batches_are_one_sentence():
    inputs = {name: Field(x.shape[1:], str(x.dtype)) for name, x in BATCH.items()}
    inexact = {name: field for name, field in inputs.items() if name != "image/shown_index"}
    with pytest.raises(ValueError, match="ContextAutoencoder, after a view such as RandomMask, reads the field"):
        METHOD.build(nnx.Rngs(0), inputs=inexact)
    wide = dataclasses.replace(METHOD, decoder=encoders.TokenDecoder(width=4, heads=1, mask_token=False, project=False))
    with pytest.raises(ValueError, match=r"^decoder: tokens are 8 wide and the decoder 4"):
        wide.build(nnx.Rngs(0), inputs=inputs)
    structure, arrays = built()
    coarse = BlockMask("image", patch=8, p=1.0, share=(0.5, 0.5), smallest=1, exact=True)(
        {"image": jnp.asarray(IMAGES)}, CTX
    )
    with pytest.raises(ValueError, match="image: the mask has 4 tokens and the encoder 4 x 4: give both"):
        structure.merge(arrays).per_example(coarse, QUIET)
